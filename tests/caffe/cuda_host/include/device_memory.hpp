// The stand-in's device memory: the host may touch it only inside of a kernel,
// a copy or a call of cuBLAS. Elsewhere it gets SIGSEGV, as with a device.
#ifndef DEVICE_MEMORY_HPP_
#define DEVICE_MEMORY_HPP_

namespace cuda_host {

class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
};

}  // namespace cuda_host

#endif  // DEVICE_MEMORY_HPP_
