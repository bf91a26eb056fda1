// The memory behind a window: what its descriptor is, and the mapping that TYPE1 needs. Nobody ever touches that
// mapping: the file may shrink under it. The pages that a device reaches are pinned and stay.
#pragma once

#include "system.hpp"

#include <smartio/error.hpp>
#include <utility>

namespace smartio::vfio::kernel {

/// What a window's descriptor is.
struct Source {
  enum class Kind { file, device, other } kind;
  FileStatus status;               ///< of a file
  std::uint32_t region = 0;        ///< of a device: which one the window lies in
  std::uint64_t region_offset = 0; ///< and where
};
/// Says what `window.fd` is, and refuses what cannot be memory of `window.size` bytes: EINVAL.
Result<Source> examine(System& system, const DmaMap& window);

/// Owns one mapping of a descriptor, or none.
class Pages {
public:
  Pages() = default;
  Pages(Pages&& other) noexcept
      : system_(std::move(other.system_)), base_(std::exchange(other.base_, nullptr)), size_(other.size_),
        lead_(other.lead_) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(system_, other.system_);
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    std::swap(lead_, other.lead_);
    return *this;
  }
  ~Pages() {
    if (base_ != nullptr) system_->unmap(base_, size_);
  }

  /// Maps what the window covers, widened to the file's pages (huge ones want aligned offsets).
  static Outcome<Pages> map(std::shared_ptr<System> system, const DmaMap& window, std::uint64_t page);

  std::byte* at_window() const noexcept { return base_ + lead_; } ///< an address to name, not to use

private:
  std::shared_ptr<System> system_;
  std::byte* base_ = nullptr;
  std::uint64_t size_ = 0, lead_ = 0;
};

} // namespace smartio::vfio::kernel
