// The client end of one connection: the state behind Client. Private to this folder.
#pragma once

#include "client.hpp"
#include "codec.hpp"
#include "mapped_memory.hpp"
#include "outstanding.hpp"
#include "stream.hpp"
#include "version.hpp"

#include <boost/asio/steady_timer.hpp>

namespace smartio::vfio::user {

struct Client::State {
  using Clock = std::chrono::steady_clock;

  /// A command that the server has not answered yet.
  struct Call {
    Command command;
    std::array<std::byte, echo_size> sent;
    Clock::time_point deadline;
    Completion done;
  };
  enum class Phase { greeting, ready, over };

  static constexpr std::size_t most_waiting = 16 * 1024 * 1024; ///< bytes that the server has not read
  static constexpr std::uint32_t first_argsz = 4096;            ///< room for a region's info

  State(boost::asio::any_io_executor executor, std::chrono::milliseconds time);

  // client.cpp: from VERSION to the end
  void greet(const std::shared_ptr<Client>& self, Socket socket, Opened when_opened);
  void greeted(const Message& message);
  void refuse(std::unexpected<Error> error);
  void ended(End why);
  void lose(int error, bool notify);
  void lose_device(int error, std::string reason);
  void malformed(const char* what, Command command);
  void watch();
  void due();

  // requests.cpp: commands and replies
  void submit(Request request, Completion done);
  void submit_irqs(SetIrqs set, Completion done);
  void submit_read(const RegionRead& read, Completion done);
  void submit_write(const RegionWrite& write, Completion done);
  void post(const RegionWrite& write); ///< one that is right, and fits a message
  void send(Request request, Completion done, std::uint32_t argsz = first_argsz);
  void received(Message message);
  void reply(Message message);
  bool ask_again(const Message& message);
  void serve(const Message& message);
  void answer(const Header& command, int error, std::span<const std::byte> head = {},
              std::span<const std::byte> tail = {});

  std::weak_ptr<Client> owner;
  std::chrono::milliseconds timeout;
  std::shared_ptr<Stream> stream;
  boost::asio::steady_timer timer; ///< for the greeting, then for the oldest call
  bool timer_armed = false;

  Phase phase = Phase::greeting;
  Version server;
  Opened opened;
  int lost_error = ENODEV; ///< what requests complete with when it is over
  bool lost = false;
  std::string why; ///< it was lost
  std::move_only_function<void()> when_lost;

  Outstanding<Call> calls;
  DmaRead dma_read;
  DmaWrite dma_write;
  std::shared_ptr<MappedMemory> memory; ///< that they are served from, or null
};

} // namespace smartio::vfio::user
