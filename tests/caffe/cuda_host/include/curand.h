// What Caffe uses of cuRAND. Nothing here draws numbers on the device.
#ifndef CUDA_HOST_CURAND_H_
#define CUDA_HOST_CURAND_H_

#include <cstddef>

enum curandStatus_t { CURAND_STATUS_SUCCESS, CURAND_STATUS_VERSION_MISMATCH,
  CURAND_STATUS_NOT_INITIALIZED, CURAND_STATUS_ALLOCATION_FAILED,
  CURAND_STATUS_TYPE_ERROR, CURAND_STATUS_OUT_OF_RANGE,
  CURAND_STATUS_LENGTH_NOT_MULTIPLE, CURAND_STATUS_DOUBLE_PRECISION_REQUIRED,
  CURAND_STATUS_LAUNCH_FAILURE, CURAND_STATUS_PREEXISTING_FAILURE,
  CURAND_STATUS_INITIALIZATION_FAILED, CURAND_STATUS_ARCH_MISMATCH,
  CURAND_STATUS_INTERNAL_ERROR };
enum curandRngType_t { CURAND_RNG_PSEUDO_DEFAULT = 100 };
typedef struct curandGenerator_st* curandGenerator_t;

curandStatus_t curandCreateGenerator(curandGenerator_t* generator, curandRngType_t type);
curandStatus_t curandDestroyGenerator(curandGenerator_t generator);
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator,
    unsigned long long seed);  // NOLINT(runtime/int)
curandStatus_t curandSetGeneratorOffset(curandGenerator_t generator,
    unsigned long long offset);  // NOLINT(runtime/int)
curandStatus_t curandGenerate(curandGenerator_t generator, unsigned int* out, size_t count);
curandStatus_t curandGenerateUniform(curandGenerator_t generator, float* out, size_t count);
curandStatus_t curandGenerateUniformDouble(curandGenerator_t generator, double* out, size_t count);
curandStatus_t curandGenerateNormal(curandGenerator_t generator, float* out, size_t count,
    float mean, float deviation);
curandStatus_t curandGenerateNormalDouble(curandGenerator_t generator, double* out, size_t count,
    double mean, double deviation);

#endif  // CUDA_HOST_CURAND_H_
