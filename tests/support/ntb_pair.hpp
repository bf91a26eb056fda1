// Two hosts at the simulated bridge, in this process: memory that the bridge can reach, messages that are answered when
// the test says so, and the few steps of a driver. What is checked is left to the tests.
#pragma once

#include "catch.hpp"
#include "fd.hpp"
#include "mapping.hpp"
#include "ntb/bridge.hpp"

#include <deque>
#include <optional>

namespace smartio::testing {

namespace ntb = sim::ntb;
using ntb::Side;
using Bytes = std::vector<std::byte>;

inline const char* any_chip() { return GENERATE("gen4", "gen4-spr", "gen5", "gen3"); }

class NtbHost {
public:
  static constexpr std::uint64_t window_bytes = 0x10000;
  static constexpr std::uint64_t memory_at = 0x40000000, memory_bytes = 0x20000; ///< IOVA of its memory
  static constexpr std::uint64_t bar2_at = 0x80000000, bar4_at = 0x90000000;

  NtbHost(ntb::Bridge& bridge, Side side);
  void attach(); ///< anew, with BARs set, bus master on, its memory mapped

  vfio::Reply request(vfio::Request request);                             ///< must complete at once
  std::shared_ptr<std::optional<vfio::Reply>> ask(vfio::Request request); ///< completes at any time
  std::uint64_t read(std::uint32_t region, std::uint64_t offset, unsigned width);
  void write(std::uint32_t region, std::uint64_t offset, unsigned width, std::uint64_t value);
  std::uint64_t reg(std::uint32_t offset, unsigned width = 4) { return read(0, offset, width); }
  void set_reg(std::uint32_t offset, std::uint64_t value, unsigned width = 4) { write(0, offset, width, value); }
  int map(std::uint64_t iova, std::uint64_t bytes, Access access, int fd, std::uint64_t offset = 0); ///< 0 or errno
  Fd assign_vector(unsigned vector);                                                                 ///< an eventfd
  void set_bus_master(bool on);

  void want_link(bool on);
  /// Lets the other host's window `index` (0, 1) come out at `iova`; `bytes` of it are open.
  void open_window(unsigned index, std::uint64_t iova, std::uint64_t bytes = window_bytes);
  bool link_up();

  // What the other host does through its own window to this one is seen here.
  std::span<std::byte> memory() const { return memory_.bytes(); }

  struct Message {
    Iova iova;
    std::uint32_t bytes = 0; ///< of a read
    Bytes data;              ///< of a write
    vfio::Completion done;
  };
  std::deque<Message> reads, writes; ///< that the bridge has sent and waits for

  std::shared_ptr<vfio::Device> device;
  Fd memory_fd;

private:
  ntb::Bridge& bridge_;
  Side side_;
  Mapping memory_;
};

/// A bridge, its hosts, and the link up.
struct NtbPair {
  explicit NtbPair(const char* chip = "gen4", bool with_link = true);
  ntb::Bridge bridge;
  NtbHost a, b;
};

} // namespace smartio::testing
