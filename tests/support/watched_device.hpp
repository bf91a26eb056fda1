// A device whose windows are noted, refused, or answered late.
#pragma once

#include "device.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>

namespace smartio::testing {

struct WatchedDevice final : vfio::Device {
  struct Map {
    Iova iova;
    std::uint64_t size, offset; ///< in its file
    bool operator==(const Map&) const = default;
  };

  struct Write {
    std::uint64_t offset, value;
    bool operator==(const Write&) const = default;
  };

  explicit WatchedDevice(std::shared_ptr<vfio::Device> watched) : device(std::move(watched)) {}
  void submit(vfio::Request request, vfio::Completion done) override {
    const auto* map = std::get_if<vfio::DmaMap>(&request);
    if (const auto* write = std::get_if<vfio::RegionWrite>(&request); write != nullptr && write->region == 0) {
      registers.push_back({write->offset, 0});
      std::memcpy(&registers.back().value, write->data.data(), std::min<std::size_t>(write->data.size(), 8));
      if (written) written(registers.back().offset);
    }
    const bool unmap = std::holds_alternative<vfio::DmaUnmap>(request);
    const int refused = map != nullptr && refuse ? refuse(*map) : 0;
    if (refused != 0) return done(std::unexpected(refused));
    if (map != nullptr) maps.push_back({map->iova, map->size, map->offset});
    if (unmap) ++unmaps;
    if (unmap && stuck) return done(std::unexpected(EIO));
    if (map != nullptr && pretend) return done(vfio::Done{});
    if (!late || (map == nullptr && !unmap)) return device->submit(std::move(request), std::move(done));
    device->submit(std::move(request), [this, done = std::move(done)](vfio::Reply reply) mutable {
      answers.push_back([done = std::move(done), reply = std::move(reply)]() mutable { done(std::move(reply)); });
    });
  }
  void on_lost(std::move_only_function<void()>) override {}
  void answer() { ///< the oldest
    auto oldest = std::move(answers.front());
    answers.pop_front();
    oldest();
  }

  std::shared_ptr<vfio::Device> device;
  std::function<int(const vfio::DmaMap&)> refuse; ///< errno, or 0
  bool late = false;                              ///< maps and unmaps are answered by answer()
  bool stuck = false;                             ///< nothing is unmapped any more
  bool pretend = false;                           ///< maps succeed, and nothing is reached there
  std::vector<Map> maps;                          ///< that were not refused
  std::vector<Write> registers;                   ///< written in BAR 0, in order
  std::function<void(std::uint64_t)> written;     ///< told the offset of each, before it takes effect
  unsigned unmaps = 0;
  std::deque<std::move_only_function<void()>> answers;
};

} // namespace smartio::testing
