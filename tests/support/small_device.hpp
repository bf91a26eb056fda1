// A small device for tests of those who serve or drive one: 9 regions, of which BAR 0 (8 KiB, its second page can be
// mapped), BAR 1 (write-only), BAR 2 (read-only) and configuration space exist; INTx, 65 MSI-X vectors and ERR. Keeps
// what it was asked.
#pragma once

#include "device.hpp"
#include "fd.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <utility>
#include <vector>

namespace smartio::test {

class SmallDevice : public vfio::Device {
public:
  /// What happens to requests other than questions about regions and interrupts.
  enum class Manner { at_once, later, dropped };

  Manner manner = Manner::at_once;
  std::size_t requests = 0; ///< of all kinds
  std::vector<std::size_t> kinds = std::vector<std::size_t>(std::variant_size_v<vfio::Request>);
  std::vector<vfio::SetIrqs> irqs;
  std::vector<vfio::DmaMap> windows;
  std::vector<std::byte> bar0 = std::vector<std::byte>(8192), config = std::vector<std::byte>(4096);
  std::deque<std::pair<vfio::Request, vfio::Completion>> waiting; ///< with Manner::later

  void submit(vfio::Request request, vfio::Completion done) override {
    ++requests;
    ++kinds[request.index()];
    if (request.index() > 2 && manner == Manner::dropped) return;
    if (request.index() > 2 && manner == Manner::later) {
      waiting.emplace_back(std::move(request), std::move(done));
      return;
    }
    done(carry_out(std::move(request)));
  }

  void on_lost(std::move_only_function<void()>) override {}

  /// Completes the request at `place` of those waiting.
  void complete(std::size_t place = 0) {
    auto [request, done] = std::move(waiting[place]);
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(place));
    done(carry_out(std::move(request)));
  }

  vfio::Reply carry_out(vfio::Request request) {
    return std::visit([this](auto& asked) { return answer(asked); }, request);
  }

private:
  using Reply = vfio::Reply;

  Reply answer(const vfio::GetInfo&) { return vfio::Info{vfio::device_flag_reset | vfio::device_flag_pci, 9, 5}; }
  Reply answer(const vfio::GetRegionInfo& get) {
    using namespace vfio;
    if (get.index == 0) {
      RegionInfo info{.flags = region_flag_read | region_flag_write | region_flag_mmap, .size = bar0.size()};
      info.areas = {{4096, 4096}};
      info.fd = make_memfd("test BAR", bar0.size()).value();
      return info;
    }
    if (get.index == 1) return RegionInfo{.flags = region_flag_write, .size = 4096};
    if (get.index == 2) return RegionInfo{.flags = region_flag_read, .size = 4096};
    if (get.index == config_region)
      return RegionInfo{.flags = region_flag_read | region_flag_write, .size = config.size()};
    if (get.index == 8) return std::unexpected(EINVAL); // no VGA
    return RegionInfo{.flags = 0, .size = 0};
  }
  Reply answer(const vfio::GetIrqInfo& get) {
    constexpr std::array<std::uint32_t, 5> counts{1, 0, 65, 1, 0};
    return vfio::IrqInfo{vfio::irq_flag_eventfd, counts.at(get.index)};
  }
  Reply answer(vfio::SetIrqs& set) {
    irqs.push_back(std::move(set));
    return vfio::Done{};
  }
  std::vector<std::byte>& memory(std::uint32_t region) { return region == vfio::config_region ? config : bar0; }
  Reply answer(const vfio::RegionRead& read) {
    const auto from = memory(read.region).begin() + static_cast<std::ptrdiff_t>(read.offset);
    return vfio::Data{{from, from + read.count}};
  }
  Reply answer(const vfio::RegionWrite& write) {
    std::ranges::copy(write.data, memory(write.region).begin() + static_cast<std::ptrdiff_t>(write.offset));
    return vfio::Done{};
  }
  Reply answer(vfio::DmaMap& map) {
    windows.push_back(std::move(map));
    return vfio::Done{};
  }
  Reply answer(const vfio::DmaUnmap& unmap) {
    std::uint64_t size = 0;
    for (const auto& window : windows) size += window.size;
    windows.clear();
    return vfio::Unmapped{unmap.all ? size : unmap.size};
  }
  Reply answer(const vfio::Reset&) { return vfio::Done{}; }
};

} // namespace smartio::test
