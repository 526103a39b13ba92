// The runtime of cuda_runtime.h: one device, whose memory is a region of the
// host's that is closed while nothing of the device runs.
#include <cuda_runtime.h>
#include <curand.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "device_memory.hpp"

namespace {

const size_t kRegion = size_t(1) << 30;
const size_t kAlign = 256;
// Behind each piece: not a number as any type, and seen to where it is freed.
const size_t kFence = 256;

char* region = NULL;
int open_count = 0;
size_t top = 0;
std::map<char*, size_t> sizes;
std::multimap<size_t, char*> free_pieces;

void Protect(const int how) {
  if (region == NULL) {
    void* place = mmap(NULL, kRegion, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
        MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) { std::abort(); }
    region = static_cast<char*>(place);
  }
  if (mprotect(region, kRegion, how) != 0) { std::abort(); }
}

bool IsDevice(const void* pointer) {
  return pointer >= region && pointer < region + kRegion;
}

void CheckFence(const char* piece, const size_t size) {
  for (size_t i = 0; i < kFence; ++i) {
    if (static_cast<unsigned char>(piece[size + i]) != 0xff) {
      std::fprintf(stderr, "CUDA on the host: byte %zu behind %zu of device "
          "memory was written\n", i, size);
      std::abort();
    }
  }
}

}  // namespace

namespace cuda_host {

DeviceAccess::DeviceAccess() {
  if (open_count++ == 0) { Protect(PROT_READ | PROT_WRITE); }
}

DeviceAccess::~DeviceAccess() {
  if (--open_count == 0) { Protect(PROT_NONE); }
}

}  // namespace cuda_host

cudaError_t cudaMalloc(void** pointer, const size_t size) {
  const cuda_host::DeviceAccess access;
  const size_t space = (size + kFence + kAlign - 1) / kAlign * kAlign;
  char* piece;
  const auto found = free_pieces.find(space);
  if (found != free_pieces.end()) {
    piece = found->second;
    free_pieces.erase(found);
  } else {
    if (top + space > kRegion) { return cudaErrorMemoryAllocation; }
    piece = region + top;
    top += space;
  }
  // New memory is no zeros.
  std::memset(piece, 0xff, space);
  sizes[piece] = size;
  *pointer = piece;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == NULL) { return cudaSuccess; }
  const cuda_host::DeviceAccess access;
  const auto found = sizes.find(static_cast<char*>(pointer));
  if (found == sizes.end()) { return cudaErrorInvalidValue; }
  CheckFence(found->first, found->second);
  const size_t space =
      (found->second + kFence + kAlign - 1) / kAlign * kAlign;
  free_pieces.insert(std::make_pair(space, found->first));
  sizes.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, const size_t size) {
  *pointer = std::malloc(size);
  return *pointer == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, const size_t size,
    cudaMemcpyKind) {
  const cuda_host::DeviceAccess access;
  std::memcpy(to, from, size);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, const size_t size,
    const cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, size, kind);
}

cudaError_t cudaMemset(void* pointer, const int value, const size_t size) {
  if (size && !IsDevice(pointer)) { return cudaErrorInvalidValue; }
  const cuda_host::DeviceAccess access;
  std::memset(pointer, value, size);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new double(0);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(const cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(const cudaEvent_t event, cudaStream_t) {
  *event = std::chrono::duration<double, std::milli>(
      std::chrono::steady_clock::now().time_since_epoch()).count();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* ms, const cudaEvent_t start,
    const cudaEvent_t stop) {
  *ms = *stop - *start;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { *count = 1; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = cudaDeviceProp();
  std::strcpy(properties->name, "the host");  // NOLINT(runtime/printf)
  properties->major = 9;
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) { return "an error of CUDA on the host"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  attributes->device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(const int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

curandStatus_t curandCreateGenerator(curandGenerator_t* generator, curandRngType_t) {
  *generator = reinterpret_cast<curandGenerator_t>(1);
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandDestroyGenerator(curandGenerator_t) { return CURAND_STATUS_SUCCESS; }
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t,
    unsigned long long) {  // NOLINT(runtime/int)
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandSetGeneratorOffset(curandGenerator_t,
    unsigned long long) {  // NOLINT(runtime/int)
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerate(curandGenerator_t, unsigned int*, size_t) {
  return CURAND_STATUS_INTERNAL_ERROR;
}
curandStatus_t curandGenerateUniform(curandGenerator_t, float*, size_t) {
  return CURAND_STATUS_INTERNAL_ERROR;
}
curandStatus_t curandGenerateUniformDouble(curandGenerator_t, double*, size_t) {
  return CURAND_STATUS_INTERNAL_ERROR;
}
curandStatus_t curandGenerateNormal(curandGenerator_t, float*, size_t, float, float) {
  return CURAND_STATUS_INTERNAL_ERROR;
}
curandStatus_t curandGenerateNormalDouble(curandGenerator_t, double*, size_t, double, double) {
  return CURAND_STATUS_INTERNAL_ERROR;
}
