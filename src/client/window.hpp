// Memory, or registers of another device, that an open device can reach.
#pragma once

#include "device_core.hpp"

#include <optional>
#include <smartio/memory.hpp>
#include <vector>

namespace smartio::detail {

/// Made and destroyed on a caller's thread. While it is mapped the memory is kept; if the end of the mapping cannot be
/// had from the device's server, for ever.
struct Window {
  explicit Window(std::shared_ptr<DeviceCore> device) : core(std::move(device)) {}
  Window(const Window&) = delete;
  ~Window();

  // One of these, once.

  /// At `chosen`, or wherever there is room; a GiB at a time.
  Result<void> map(smartio::Memory shared, Access by_device, std::optional<Iova> chosen);
  /// Each mappable area of a register block where it is in the block.
  Result<void> map_registers(std::shared_ptr<DeviceCore> of, unsigned bar, Access by_device);

  std::shared_ptr<DeviceCore> core;
  Iova iova{};
  std::size_t size = 0;

private:
  struct Piece {
    Iova iova;
    std::uint64_t size;
  };
  Result<void> reserve(std::uint64_t bytes, std::optional<Iova> chosen);
  Result<Iova> find_room(std::uint64_t bytes, std::optional<Iova> chosen);
  Result<void> map_piece(std::uint64_t at, std::uint64_t bytes, Access by_device, int fd, std::uint64_t offset);
  Result<void> mapped_or_not(Piece piece, vfio::Reply reply);
  bool unmap(const Piece& piece);
  void release();

  std::optional<smartio::Memory> memory_;
  std::shared_ptr<DeviceCore> target_; ///< stays open while its registers can be reached
  bool reserved_ = false;
  std::vector<Piece> pieces_; ///< that the device can reach, or perhaps can
};

} // namespace smartio::detail
