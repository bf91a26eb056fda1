// The memory of the host at one end, as the bridge reaches it: through the client's descriptors where a window has one,
// by messages to the client everywhere else (memory without a descriptor, registers of other devices). Nothing here
// waits: what needs a message completes later.
#pragma once

#include "pci/guest_memory.hpp"

#include <deque>
#include <functional>
#include <memory>
#include <set>

namespace smartio::sim::ntb {

/// Messages to a client that read and write its memory, as vfio::user::Connection has them: they complete with Data or
/// Done, or with an errno. Empty: there is no such way.
struct Messages {
  std::move_only_function<void(Iova, std::uint32_t bytes, vfio::Completion)> read;
  std::move_only_function<void(Iova, std::vector<std::byte>, vfio::Completion)> write;
};

class HostMemory : public std::enable_shared_from_this<HostMemory> {
public:
  using Bytes = std::vector<std::byte>;
  using ReadDone = std::move_only_function<void(std::expected<Bytes, int>)>;

  explicit HostMemory(Messages messages) : messages_(std::move(messages)) {}

  GuestMemory& windows() noexcept { return windows_; }
  const GuestMemory& windows() const noexcept { return windows_; }

  /// Whether a read has to ask the client, who then must not be waiting for us.
  bool read_needs_messages(std::uint64_t address, std::uint64_t bytes) const;
  /// `done` gets all the bytes or an errno, and is dropped without a call when this object goes.
  void read(std::uint64_t address, std::uint64_t bytes, ReadDone done);
  /// Posted; 0 or the errno of what could not be sent. What the client says later is counted only.
  int write(std::uint64_t address, std::span<const std::byte> data);

  /// Calls `done` when every message write so far has been answered: an interrupt must not overtake data.
  void after_writes(std::move_only_function<void()> done);
  bool busy() const noexcept; ///< so many message writes are under way that no more should be made
  void on_idle(std::move_only_function<void()> idle) { idle_ = std::move(idle); } ///< called after busy has ended

  std::uint64_t messages_sent() const noexcept { return sent_; }
  std::uint64_t refused_writes() const noexcept {
    return refused_;
  } ///< message writes the client answered with an error

private:
  struct Reading;
  void continue_reading(std::shared_ptr<Reading> reading);
  int write_message(std::uint64_t address, std::span<const std::byte> data);
  void written(std::uint64_t number, std::size_t bytes, bool good);

  GuestMemory windows_;
  Messages messages_;
  std::uint64_t sent_ = 0, refused_ = 0;
  std::set<std::uint64_t> writing_; ///< numbers of message writes not answered yet
  std::uint64_t next_write_ = 0;
  std::size_t writing_bytes_ = 0;
  struct Waiter {
    std::uint64_t before; ///< number of the first write it does not wait for
    std::move_only_function<void()> done;
  };
  std::deque<Waiter> waiters_;
  std::move_only_function<void()> idle_;
};

} // namespace smartio::sim::ntb
