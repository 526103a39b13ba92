// What Caffe uses of cuBLAS, by plain loops. Matrices are stored by columns.
#ifndef CUDA_HOST_CUBLAS_V2_H_
#define CUDA_HOST_CUBLAS_V2_H_

#include <cuda_runtime.h>

#include <cmath>

#include "device_memory.hpp"

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_NOT_INITIALIZED,
  CUBLAS_STATUS_ALLOC_FAILED, CUBLAS_STATUS_INVALID_VALUE,
  CUBLAS_STATUS_ARCH_MISMATCH, CUBLAS_STATUS_MAPPING_ERROR,
  CUBLAS_STATUS_EXECUTION_FAILED, CUBLAS_STATUS_INTERNAL_ERROR,
  CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_LICENSE_ERROR };
#define CUDA_VERSION 13000
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
typedef struct cublasContext* cublasHandle_t;

inline cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = reinterpret_cast<cublasHandle_t>(1);
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasDestroy(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasGetStream(cublasHandle_t, cudaStream_t* stream) {
  *stream = NULL;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }

namespace cuda_host {

template <typename T>
cublasStatus_t Gemm(const cublasOperation_t ta, const cublasOperation_t tb, const int m, const int n,
    const int k, const T* alpha, const T* a, const int lda, const T* b, const int ldb, const T* beta,
    T* c, const int ldc) {
  const DeviceAccess access;
  for (int j = 0; j < n; ++j) {
    for (int i = 0; i < m; ++i) {
      T sum = 0;
      for (int l = 0; l < k; ++l) {
        sum += (ta == CUBLAS_OP_N ? a[i + l * lda] : a[l + i * lda]) *
            (tb == CUBLAS_OP_N ? b[l + j * ldb] : b[j + l * ldb]);
      }
      // What is multiplied by zero may be anything.
      c[i + j * ldc] = *alpha * sum + (*beta == 0 ? 0 : *beta * c[i + j * ldc]);
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace cuda_host

#define CUDA_HOST_BLAS(L, T) \
inline cublasStatus_t cublas##L##gemm(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, \
    int m, int n, int k, const T* alpha, const T* a, int lda, const T* b, int ldb, const T* beta, \
    T* c, int ldc) { \
  return cuda_host::Gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc); \
} \
inline cublasStatus_t cublas##L##gemv(cublasHandle_t, cublasOperation_t t, int m, int n, \
    const T* alpha, const T* a, int lda, const T* x, int, const T* beta, T* y, int) { \
  return cuda_host::Gemm(t, CUBLAS_OP_N, t == CUBLAS_OP_N ? m : n, 1, t == CUBLAS_OP_N ? n : m, \
      alpha, a, lda, x, t == CUBLAS_OP_N ? n : m, beta, y, t == CUBLAS_OP_N ? m : n); \
} \
inline cublasStatus_t cublas##L##axpy(cublasHandle_t, int n, const T* alpha, const T* x, int, T* y, \
    int) { \
  const cuda_host::DeviceAccess access; \
  for (int i = 0; i < n; ++i) { y[i] += *alpha * x[i]; } \
  return CUBLAS_STATUS_SUCCESS; \
} \
inline cublasStatus_t cublas##L##scal(cublasHandle_t, int n, const T* alpha, T* x, int) { \
  const cuda_host::DeviceAccess access; \
  for (int i = 0; i < n; ++i) { x[i] *= *alpha; } \
  return CUBLAS_STATUS_SUCCESS; \
} \
inline cublasStatus_t cublas##L##copy(cublasHandle_t, int n, const T* x, int, T* y, int) { \
  const cuda_host::DeviceAccess access; \
  for (int i = 0; i < n; ++i) { y[i] = x[i]; } \
  return CUBLAS_STATUS_SUCCESS; \
} \
inline cublasStatus_t cublas##L##dot(cublasHandle_t, int n, const T* x, int, const T* y, int, \
    T* out) { \
  const cuda_host::DeviceAccess access; \
  T sum = 0; \
  for (int i = 0; i < n; ++i) { sum += x[i] * y[i]; } \
  *out = sum; \
  return CUBLAS_STATUS_SUCCESS; \
} \
inline cublasStatus_t cublas##L##asum(cublasHandle_t, int n, const T* x, int, T* out) { \
  const cuda_host::DeviceAccess access; \
  T sum = 0; \
  for (int i = 0; i < n; ++i) { sum += std::abs(x[i]); } \
  *out = sum; \
  return CUBLAS_STATUS_SUCCESS; \
}

CUDA_HOST_BLAS(S, float)
CUDA_HOST_BLAS(D, double)

#endif  // CUDA_HOST_CUBLAS_V2_H_
