// One client of a served device: the state behind Connection. Private to this folder.
#pragma once

#include "codec.hpp"
#include "outstanding.hpp"
#include "server.hpp"
#include "stream.hpp"
#include "version.hpp"
#include "view.hpp"

#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <map>

namespace smartio::vfio::user {

struct Connection::State {
  using Clock = std::chrono::steady_clock;
  using Closed = std::move_only_function<void()>;

  /// A command that is not answered yet. Answers go out in the order of commands.
  struct Call {
    std::uint16_t id;
    Command command;
    bool no_reply;
    std::array<std::byte, echo_size> sent;
    std::size_t weight; ///< bytes that it keeps, or will
    Clock::time_point deadline;
    bool done = false;
    Reply reply{};
  };
  /// A DMA_READ or DMA_WRITE that the client has not answered yet; without `done` nobody waits any more.
  struct Dma {
    Command command;
    Iova iova;
    std::uint32_t count;
    Clock::time_point deadline;
    Completion done;
  };
  struct LateWindow {
    DmaUnmap window;
    bool mapped = false; ///< by the device, while an unmap of the client's is under way
  };
  enum class Phase { greeting, loading, ready, over };

  State(Connection& of, Socket socket, Accept chooser, Counters& counted, Closed at_end);
  void start();

  // connection.cpp: from VERSION to the end
  void received(Message message);
  void greet(Message message);
  void refuse(const Header& header, int error);
  void loaded(std::uint16_t id, std::expected<std::shared_ptr<const DeviceView>, int> view);
  void ended(End why);
  void malformed();
  void finish(bool notify);
  void report();

  // calls.cpp: the client's commands
  void call(Message message);
  void carry_out(std::uint64_t number, Request request);
  void complete(std::uint64_t number, Reply reply);
  void answer(const Call& call, const Reply& reply);
  std::expected<Payload, int> encode(const Call& call, const Reply& reply) const;
  void undo(const DmaUnmap& window);
  void settle_late(std::uint64_t number, bool success);
  void drop_first_call();
  void control_flow();
  void watch_calls();
  void calls_due();

  // dma.cpp: the client's memory
  void send_dma(Command command, Iova iova, std::uint32_t count, std::span<const std::byte> data, Completion done);
  void dma_reply(const Message& message);
  void watch_dma();
  void dma_due();

  Connection& owner;
  int handle; ///< of the socket, while it is not over
  std::shared_ptr<Stream> stream;
  boost::asio::steady_timer timer; ///< for the greeting, then for DMA
  bool timer_armed = false;
  boost::asio::steady_timer call_timer; ///< for the oldest call, while the device has not completed it
  bool call_timer_armed = false;
  Accept accept;
  Counters& counters;
  Closed closed;
  ::ucred peer{};

  Phase phase = Phase::greeting;
  Version client;
  std::shared_ptr<Device> device;
  std::shared_ptr<const DeviceView> view;
  bool withdrawn = false; ///< the view has no descriptors any more, and must get none

  std::deque<Call> calls;
  std::uint64_t first_call = 0;                     ///< number of calls.front()
  std::size_t weight = 0;                           ///< of all calls
  std::map<std::uint64_t, LateWindow> late_windows; ///< by number: the client was told that they are not there
  std::map<std::uint64_t, DmaUnmap> unmaps;         ///< the client's, by number: the device has not completed them
  bool held_up = false;                             ///< too many calls: nothing more is read

  Outstanding<Dma> dmas;
  unsigned abandoned = 0; ///< dmas nobody waits for
};

} // namespace smartio::vfio::user
