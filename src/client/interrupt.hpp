// One interrupt vector of an open device.
#pragma once

#include "device_core.hpp"

namespace smartio::detail {

/// Made and destroyed on a caller's thread; the vector is enabled while it lives.
struct Vector {
  Vector(std::shared_ptr<DeviceCore> device, unsigned number) : core(std::move(device)), vector(number) {}
  Vector(const Vector&) = delete;
  ~Vector();

  Result<void> enable();
  Result<void> rearm();

  std::shared_ptr<DeviceCore> core;
  unsigned vector;
  Fd event;
  bool taken = false;
};

} // namespace smartio::detail
