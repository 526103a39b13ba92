// CUDA kernels on the host, for tests: what a .cu file needs of CUDA's
// language after tests/caffe/cuda_host.py has rewritten two forms that no C++
// compiler takes, a launch and a __shared__ variable.
//
// Two ways to run the threads of a launch, by CUDA_HOST_MODE:
//   fibers    one after another in one thread of the host; a thread is left at
//             __syncthreads, __threadfence and atomics only. CUDA_HOST_SEED 0:
//             blocks and threads in their order; other seeds: several blocks
//             at a time, and the next thread drawn anew each time.
//   threads   a thread of the host for each, several blocks at a time, started
//             and delayed by the seed: for ThreadSanitizer.
// Both end the process where threads of a block meet different barriers, or
// some a barrier and some the end.
//
// Limits. Launches are of one dimension and end before they return: what the
// host must wait for is not tested. Shared memory is declared, not given at the
// launch. There are no warps, and no textures. Memory is sequentially
// consistent with fibers. With threads it is that of C++, and an atomic
// publishes what its thread wrote before only after a __threadfence; reading
// through volatile needs none, as on a device, whose volatile reads pass by the
// cache.
#ifndef CUDA_HOST_HPP_
#define CUDA_HOST_HPP_

#include <algorithm>
#include <cstddef>
#include <functional>

#define __global__
#define __device__
#define __host__

struct uint3 { unsigned int x, y, z; };
struct dim3 : uint3 {
  dim3(unsigned int n = 1) : uint3{n, 1, 1} {}  // NOLINT(runtime/explicit)
};

extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

namespace cuda_host {

// Shared memory of a block; each variable has a place of its own.
const size_t kSharedVariable = 2048;
const size_t kSharedVariables = 8;

void Run(unsigned int grid, unsigned int block,
    const std::function<void()>& thread);
void Barrier(int line);
void Fence();
// Before and after an atomic: another thread may come between.
bool BeginAtomic();
char* SharedMemory();

template <typename T, int kVariable>
T& Shared() {
  static_assert(sizeof(T) <= kSharedVariable && kVariable < kSharedVariables,
      "more shared memory than a block has");
  return *reinterpret_cast<T*>(SharedMemory() + kVariable * kSharedVariable);
}

template <typename... Parameters>
class Launcher {
 public:
  Launcher(void (*kernel)(Parameters...), const dim3 grid, const dim3 block)
      : kernel_(kernel), grid_(grid), block_(block) {}
  void operator()(Parameters... arguments) const {
    Run(grid_.x, block_.x, [&] { kernel_(arguments...); });
  }

 private:
  void (*kernel_)(Parameters...);
  dim3 grid_, block_;
};

// Launch(kernel, grid, block)(arguments) is kernel<<<grid, block>>>(arguments).
template <typename... Parameters>
Launcher<Parameters...> Launch(void (*kernel)(Parameters...), const dim3 grid,
    const dim3 block) {
  return Launcher<Parameters...>(kernel, grid, block);
}

}  // namespace cuda_host

using std::max;
using std::min;

#define __syncthreads() cuda_host::Barrier(__LINE__)
#define __threadfence() cuda_host::Fence()

template <typename T>
T atomicAdd(T* address, const T value) {
  return cuda_host::BeginAtomic() ?
      __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL) :
      __atomic_fetch_add(address, value, __ATOMIC_ACQUIRE);
}

#endif  // CUDA_HOST_HPP_
