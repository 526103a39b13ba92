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
#include <vector>

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
// one that needs least. Proposals come best first, an algorithm once for each
// kind of arithmetic. What they say of support and memory is for that kind,
// but the descriptor's is what counts when Caffe calls: so size_of(algorithm,
// &bytes) asks cuDNN under the descriptor. `otherwise` is deterministic, and
// tried where no proposal will do.
template <typename Proposal, typename Algorithm, typename SizeOf>
inline cudnnStatus_t Choose(const std::vector<Proposal>& proposals,
    const size_t limit, const Algorithm otherwise, const char* pass,
    const SizeOf& size_of, Algorithm* algorithm) {
  const bool deterministic = Setting("CAFFE_CUDNN_DETERMINISTIC", 0);
  bool found = false;
  size_t least = 0;
  for (size_t i = 0; i < proposals.size() && (!found || least > limit); ++i) {
    const Proposal& proposal = proposals[i];
    size_t size = 0;
    if (proposal.status != CUDNN_STATUS_SUCCESS ||
        (deterministic && proposal.determinism != CUDNN_DETERMINISTIC) ||
        size_of(proposal.algo, &size) != CUDNN_STATUS_SUCCESS) {
      continue;
    }
    if (!found || size < least) {
      found = true;
      least = size;
      *algorithm = proposal.algo;
    }
  }
  if (found) { return CUDNN_STATUS_SUCCESS; }
  *algorithm = otherwise;
  const cudnnStatus_t status = size_of(otherwise, &least);
  if (status != CUDNN_STATUS_SUCCESS) {
    LOG(ERROR) << "cuDNN has no" << (deterministic ? " deterministic" : "")
        << " algorithm for the " << pass << " pass of this convolution: "
        << (deterministic ? "unset CAFFE_CUDNN_DETERMINISTIC, or " : "")
        << "give the layer engine: CAFFE";
  }
  return status;
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

inline cudnnStatus_t cudnnGetConvolutionForwardAlgorithm(
    cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
    const cudnnFilterDescriptor_t w,
    const cudnnConvolutionDescriptor_t convolution,
    const cudnnTensorDescriptor_t y, int, size_t limit,
    cudnnConvolutionFwdAlgo_t* algorithm) {
  int count = 0;
  cudnnStatus_t status =
      cudnnGetConvolutionForwardAlgorithmMaxCount(handle, &count);
  if (status != CUDNN_STATUS_SUCCESS) { return status; }
  std::vector<cudnnConvolutionFwdAlgoPerf_t> proposals(count);
  status = cudnnGetConvolutionForwardAlgorithm_v7(handle,
      x, w, convolution, y, proposals.size(), &count, proposals.data());
  if (status != CUDNN_STATUS_SUCCESS) { return status; }
  proposals.resize(count);
  return caffe::cudnn::Choose(proposals, limit,
      CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, "forward",
      [=](const cudnnConvolutionFwdAlgo_t choice, size_t* size) {
        return cudnnGetConvolutionForwardWorkspaceSize(handle,
            x, w, convolution, y, choice, size);
      }, algorithm);
}

inline cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm(
    cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t convolution,
    const cudnnFilterDescriptor_t dw, int, size_t limit,
    cudnnConvolutionBwdFilterAlgo_t* algorithm) {
  int count = 0;
  cudnnStatus_t status =
      cudnnGetConvolutionBackwardFilterAlgorithmMaxCount(handle, &count);
  if (status != CUDNN_STATUS_SUCCESS) { return status; }
  std::vector<cudnnConvolutionBwdFilterAlgoPerf_t> proposals(count);
  status = cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle,
      x, dy, convolution, dw, proposals.size(), &count, proposals.data());
  if (status != CUDNN_STATUS_SUCCESS) { return status; }
  proposals.resize(count);
  return caffe::cudnn::Choose(proposals, limit,
      CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, "backward filter",
      [=](const cudnnConvolutionBwdFilterAlgo_t choice, size_t* size) {
        return cudnnGetConvolutionBackwardFilterWorkspaceSize(handle,
            x, dy, convolution, dw, choice, size);
      }, algorithm);
}

inline cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm(
    cudnnHandle_t handle, const cudnnFilterDescriptor_t w,
    const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t convolution,
    const cudnnTensorDescriptor_t dx, int, size_t limit,
    cudnnConvolutionBwdDataAlgo_t* algorithm) {
  int count = 0;
  cudnnStatus_t status =
      cudnnGetConvolutionBackwardDataAlgorithmMaxCount(handle, &count);
  if (status != CUDNN_STATUS_SUCCESS) { return status; }
  std::vector<cudnnConvolutionBwdDataAlgoPerf_t> proposals(count);
  status = cudnnGetConvolutionBackwardDataAlgorithm_v7(handle,
      w, dy, convolution, dx, proposals.size(), &count, proposals.data());
  if (status != CUDNN_STATUS_SUCCESS) { return status; }
  proposals.resize(count);
  return caffe::cudnn::Choose(proposals, limit,
      CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, "backward data",
      [=](const cudnnConvolutionBwdDataAlgo_t choice, size_t* size) {
        return cudnnGetConvolutionBackwardDataWorkspaceSize(handle,
            w, dy, convolution, dx, choice, size);
      }, algorithm);
}

#endif  // CUDNN_VERSION >= 8000
#endif  // USE_CUDNN
#endif  // CPU_ONLY
#endif  // CAFFE_UTIL_CUDA_COMPAT_H_
