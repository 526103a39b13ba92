// What Caffe uses of CUDA's runtime, for one device in the host's memory.
#ifndef CUDA_HOST_CUDA_RUNTIME_H_
#define CUDA_HOST_CUDA_RUNTIME_H_

#include <cstddef>

#include "cuda_host.hpp"

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorMemoryAllocation };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDefault = 4 };
enum cudaDeviceAttr { cudaDevAttrClockRate = 13, cudaDevAttrGpuOverlap = 15,
  cudaDevAttrKernelExecTimeout = 17 };
enum { cudaStreamDefault, cudaStreamNonBlocking };
typedef struct CUstream_st* cudaStream_t;
// The time at which it was recorded, in ms.
typedef double* cudaEvent_t;
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlock, memPitch, totalConstMem;
  size_t textureAlignment;
  int regsPerBlock, warpSize, maxThreadsPerBlock, maxThreadsDim[3];
  int maxGridSize[3], major, minor, multiProcessorCount;
};
struct cudaPointerAttributes { int device; };

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t stop);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaMalloc(void** pointer, size_t size);
template <typename T>
cudaError_t cudaMalloc(T** pointer, const size_t size) {
  return cudaMalloc(reinterpret_cast<void**>(pointer), size);
}
cudaError_t cudaMallocHost(void** pointer, size_t size);
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size,
    cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemset(void* pointer, int value, size_t size);
cudaError_t cudaPeekAtLastError();
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);
cudaError_t cudaSetDevice(int device);

#endif  // CUDA_HOST_CUDA_RUNTIME_H_
