// Requests to a device, one after the other; the first failure ends them. What registers drivers are made of.
#pragma once

#include "device.hpp"

#include <deque>
#include <functional>
#include <memory>
#include <smartio/error.hpp>
#include <string>

namespace smartio::fabric::ntb {

class Steps : public std::enable_shared_from_this<Steps> {
public:
  using Done = std::move_only_function<void(Result<void>)>;
  using Look = std::move_only_function<Result<void>(vfio::Answer&)>;

  static std::shared_ptr<Steps> on(std::shared_ptr<vfio::Device> device);

  /// `what` says in an error what was tried. `look` may add steps: they come next.
  void ask(std::string what, vfio::Request request, Look look = nullptr);
  void write(std::uint32_t offset, unsigned width, std::uint64_t value); ///< BAR 0
  /// The value in BAR 0, or in configuration space.
  void read(std::uint32_t offset, unsigned width, std::function<Result<void>(std::uint64_t)> look);
  void read_config(std::uint32_t offset, unsigned width, std::function<Result<void>(std::uint64_t)> look);
  void change(std::uint32_t offset, unsigned width, std::uint64_t clear, std::uint64_t set);
  void change_config(std::uint32_t offset, unsigned width, std::uint64_t clear, std::uint64_t set);
  /// Writes and reads back: Errc::wrong_state when the register has not taken the value.
  void set(std::uint32_t offset, unsigned width, std::uint64_t value);

  /// Carries them out; `done` is called once, possibly before this returns.
  void run(Done done);

private:
  struct Step {
    std::string what;
    vfio::Request request;
    Look look;
  };
  explicit Steps(std::shared_ptr<vfio::Device> device) : device_(std::move(device)) {}
  void next();
  void answered(std::string what, Look look, vfio::Reply reply);
  void write_region(std::uint32_t region, std::uint32_t offset, unsigned width, std::uint64_t value);
  void read_region(std::uint32_t region, std::uint32_t offset, unsigned width,
                   std::function<Result<void>(std::uint64_t)> look);
  void change_region(std::uint32_t region, std::uint32_t offset, unsigned width, std::uint64_t clear,
                     std::uint64_t set);

  std::shared_ptr<vfio::Device> device_;
  std::deque<Step> steps_;
  std::size_t place_ = 0; ///< where a step that is being looked at adds
  Done done_;
};

} // namespace smartio::fabric::ntb
