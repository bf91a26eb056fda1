// A device that writes down, in a log it may share with others, what changes its state; and fails what it is told to.
#pragma once

#include "small_device.hpp"

#include <functional>
#include <memory>
#include <string>

namespace smartio::test {

using Log = std::vector<std::string>;

class NotingDevice final : public SmallDevice {
public:
  explicit NotingDevice(std::shared_ptr<Log> notes) : log(std::move(notes)) {}

  std::shared_ptr<Log> log;
  std::string failing; ///< what of the log is refused, with EIO
  std::string silent;  ///< what of the log is not answered, before answer_held() or lose()
  bool can_reset = true;

  void submit(vfio::Request request, vfio::Completion done) override {
    if (dead_) return done(std::unexpected(ENODEV));
    if (std::holds_alternative<vfio::GetInfo>(request))
      return done(vfio::Info{can_reset ? vfio::device_flag_reset : 0U, vfio::region_count, vfio::irq_count});
    const auto what = note(request);
    if (!what.empty()) log->push_back(what);
    if (!what.empty() && what == silent) return held_.push_back({std::move(request), std::move(done)});
    if (!what.empty() && what == failing) return done(std::unexpected(EIO));
    SmallDevice::submit(std::move(request), std::move(done));
  }
  void on_lost(std::move_only_function<void()> lost) override { lost_ = std::move(lost); }

  void answer_held() {
    for (auto& [request, done] : std::exchange(held_, {}))
      if (note(request) == failing)
        done(std::unexpected(EIO));
      else
        SmallDevice::submit(std::move(request), std::move(done));
  }
  /// As the end of its server does: nothing that was asked is done any more.
  void lose() {
    dead_ = true;
    for (auto& [request, done] : std::exchange(held_, {})) done(std::unexpected(ECANCELED));
    if (lost_) std::exchange(lost_, nullptr)();
  }
  void revive() { dead_ = false; } ///< its server is there again

private:
  /// Empty for what only asks.
  static std::string note(const vfio::Request& request) {
    if (std::holds_alternative<vfio::Reset>(request)) return "reset";
    if (std::holds_alternative<vfio::DmaMap>(request)) return "map";
    if (const auto* range = std::get_if<vfio::DmaUnmap>(&request))
      return range->all ? "unmap all" : "unmap " + std::to_string(std::to_underlying(range->iova));
    if (const auto* irqs = std::get_if<vfio::SetIrqs>(&request))
      return (irqs->count == 0 ? "interrupts off " : "interrupts on ") + std::to_string(irqs->index);
    const auto* write = std::get_if<vfio::RegionWrite>(&request);
    if (write == nullptr) return {};
    if (write->region != vfio::config_region || write->offset != 4 || write->data.empty()) return "write";
    return "command " + std::to_string(std::to_integer<unsigned>(write->data[0]));
  }

  bool dead_ = false;
  struct Held {
    vfio::Request request;
    vfio::Completion done;
  };
  std::vector<Held> held_;
  std::move_only_function<void()> lost_;
};

} // namespace smartio::test
