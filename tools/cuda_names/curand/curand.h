// The names of cuRAND that Caffe's headers use, for compiling where cuRAND itself is not at hand. Nothing links with it.
#ifndef CAFFE_SPLIT_CURAND_NAMES_H_
#define CAFFE_SPLIT_CURAND_NAMES_H_
#include <cuda_runtime.h>
typedef struct curandGenerator_st* curandGenerator_t;
typedef enum { CURAND_STATUS_SUCCESS = 0 } curandStatus_t;
#endif
