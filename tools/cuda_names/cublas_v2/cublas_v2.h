// The names of cuBLAS that Caffe's headers use, for compiling where cuBLAS itself is not at hand. Nothing links with it.
#ifndef CAFFE_SPLIT_CUBLAS_NAMES_H_
#define CAFFE_SPLIT_CUBLAS_NAMES_H_
#include <cuda_runtime.h>
typedef struct cublasContext* cublasHandle_t;
typedef enum { CUBLAS_STATUS_SUCCESS = 0 } cublasStatus_t;
#endif
