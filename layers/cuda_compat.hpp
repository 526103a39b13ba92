#ifndef CAFFE_UTIL_CUDA_COMPAT_H_
#define CAFFE_UTIL_CUDA_COMPAT_H_

// What Caffe uses of CUDA and cuDNN and what their later versions have
// dropped: three fields of cudaDeviceProp (CUDA 13), and the getters of
// convolution algorithms that take a limit for the workspace (cuDNN 8). The
// getters here choose among what the _v7 getters propose, best first.

#ifndef CPU_ONLY

#include <cuda_runtime.h>

namespace caffe {

// An attribute of a device; 0 where it cannot be asked.
inline int DeviceAttribute(const cudaDeviceAttr attribute, const int device) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ?
      value : 0;
}

}  // namespace caffe

#ifdef USE_CUDNN

#include <cudnn.h>
#include <cstddef>
#include <cstdlib>

#include <glog/logging.h>

namespace caffe {

namespace cudnn {

// A number from the environment, for what Caffe's schema has no field for.
inline int Setting(const char* name, const int otherwise) {
  const char* text = std::getenv(name);
  if (text == NULL || *text == '\0') { return otherwise; }
  char* end = NULL;
  const long value = std::strtol(text, &end, 10);  // NOLINT(runtime/int)
  CHECK(*end == '\0' && value >= 0 && value <= (1 << 20)) << name << "=" << text
      << " is no whole number from 0 to " << (1 << 20);
  return value;
}

// Bytes that one convolution may use beside its data, for each of its three
// passes and each group. 8 MiB is what BVLC Caffe had fixed.
inline size_t WorkspaceLimit() {
  return static_cast<size_t>(Setting("CAFFE_CUDNN_WORKSPACE_MB", 8)) << 20;
}

#if CUDNN_VERSION >= 8000
// From cuDNN 8 on, its default lets an Ampere or later device round the inputs
// of float convolutions to 10 bits (TF32). Caffe's float means float.
inline cudnnMathType_t MathType() {
  return Setting("CAFFE_CUDNN_TF32", 0) ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH;
}

// The first proposal that works within the limit; where none does, the working
// one that needs least. Proposals come best first.
template <typename Proposal, typename Algorithm>
inline cudnnStatus_t Choose(const Proposal* proposals, const int count,
    const size_t limit, Algorithm* algorithm) {
  const bool deterministic = Setting("CAFFE_CUDNN_DETERMINISTIC", 0);
  const Proposal* best = NULL;
  for (int i = 0; i < count; ++i) {
    const Proposal& proposal = proposals[i];
    if (proposal.status != CUDNN_STATUS_SUCCESS ||
        (deterministic && proposal.determinism != CUDNN_DETERMINISTIC) ||
        // These convert to half precision.
        proposal.mathType == CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION) {
      continue;
    }
    if (best == NULL || (best->memory > limit && proposal.memory < best->memory)) {
      best = &proposal;
    }
  }
  if (best == NULL) { return CUDNN_STATUS_NOT_SUPPORTED; }
  *algorithm = best->algo;
  return CUDNN_STATUS_SUCCESS;
}
#endif

}  // namespace cudnn

}  // namespace caffe

#if CUDNN_VERSION >= 8000

// The names are cuDNN 7's, since Caffe's layers call them. The preference is
// always the limit; its type is gone with it.
#define CUDNN_CONVOLUTION_FWD_SPECIFY_WORKSPACE_LIMIT 0
#define CUDNN_CONVOLUTION_BWD_FILTER_SPECIFY_WORKSPACE_LIMIT 0
#define CUDNN_CONVOLUTION_BWD_DATA_SPECIFY_WORKSPACE_LIMIT 0

inline cudnnStatus_t cudnnGetConvolutionForwardAlgorithm(cudnnHandle_t handle,
    const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w,
    const cudnnConvolutionDescriptor_t convolution,
    const cudnnTensorDescriptor_t y, int, size_t limit,
    cudnnConvolutionFwdAlgo_t* algorithm) {
  cudnnConvolutionFwdAlgoPerf_t proposals[CUDNN_CONVOLUTION_FWD_ALGO_COUNT];
  int count = 0;
  const cudnnStatus_t status = cudnnGetConvolutionForwardAlgorithm_v7(handle,
      x, w, convolution, y, CUDNN_CONVOLUTION_FWD_ALGO_COUNT, &count,
      proposals);
  return status != CUDNN_STATUS_SUCCESS ? status :
      caffe::cudnn::Choose(proposals, count, limit, algorithm);
}

inline cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm(
    cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t convolution,
    const cudnnFilterDescriptor_t dw, int, size_t limit,
    cudnnConvolutionBwdFilterAlgo_t* algorithm) {
  cudnnConvolutionBwdFilterAlgoPerf_t
      proposals[CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT];
  int count = 0;
  const cudnnStatus_t status = cudnnGetConvolutionBackwardFilterAlgorithm_v7(
      handle, x, dy, convolution, dw, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT,
      &count, proposals);
  return status != CUDNN_STATUS_SUCCESS ? status :
      caffe::cudnn::Choose(proposals, count, limit, algorithm);
}

inline cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm(
    cudnnHandle_t handle, const cudnnFilterDescriptor_t w,
    const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t convolution,
    const cudnnTensorDescriptor_t dx, int, size_t limit,
    cudnnConvolutionBwdDataAlgo_t* algorithm) {
  cudnnConvolutionBwdDataAlgoPerf_t
      proposals[CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT];
  int count = 0;
  const cudnnStatus_t status = cudnnGetConvolutionBackwardDataAlgorithm_v7(
      handle, w, dy, convolution, dx, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT,
      &count, proposals);
  return status != CUDNN_STATUS_SUCCESS ? status :
      caffe::cudnn::Choose(proposals, count, limit, algorithm);
}

#endif  // CUDNN_VERSION >= 8000
#endif  // USE_CUDNN
#endif  // CPU_ONLY
#endif  // CAFFE_UTIL_CUDA_COMPAT_H_
