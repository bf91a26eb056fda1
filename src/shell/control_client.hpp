// A blocking client of smartiod's control socket: one request, one reply, and the events of `monitor`. Used by
// smartio_tool and by programs that attach to the host's node. Knows frames and errors; what the commands mean is left
// to its callers.
#pragma once

#include "fd.hpp"

#include <smartio/error.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace smartio {

/// One control connection. For one thread at a time; another thread may shutdown(2) `fd()` to end a wait.
class ControlClient {
public:
  /// Connects to RUN_DIR/smartiod.sock. `timeout` bounds this and each later call. Errc::peer_down when no daemon
  /// answers there, not_permitted when the socket may not be opened, bad_request for a path no socket can have.
  static Result<ControlClient> connect(const std::string& run_dir, std::chrono::milliseconds timeout);

  /// Sends `command` and blocks for its reply: the result object, or the daemon's error with its sentence (the code is
  /// std::errc::io_error where the name is none of Errc). `note` gets the reply's remark, if any. A failure to send,
  /// receive or understand (peer_down, timed_out, std::errc::bad_message) closes the connection; arguments that are not
  /// UTF-8 or too long are bad_request, and nothing was sent.
  Result<nlohmann::json> call(std::string_view command, const nlohmann::json& arguments, std::string* note = nullptr);

  /// Blocks for the next event of `monitor`, for ever or at most `wait`. False when the daemon closed the connection
  /// between frames; Errc::timed_out, and nothing lost, when no event began within `wait`.
  Result<bool> next_event(nlohmann::json& event, std::optional<std::chrono::milliseconds> wait = std::nullopt);

  /// Neither end has closed it: nothing but a call tells whether it works.
  bool is_open() const;

  int fd() const noexcept { return socket_.get(); } ///< borrowed; -1 after the connection was closed

private:
  using Deadline = std::optional<std::chrono::steady_clock::time_point>;

  ControlClient(Fd socket, std::chrono::milliseconds timeout) noexcept
      : socket_(std::move(socket)), timeout_(timeout) {}
  Deadline deadline() const { return std::chrono::steady_clock::now() + timeout_; }

  Result<nlohmann::json> await_reply(std::uint64_t id);
  Result<nlohmann::json> receive_frame();
  Result<void> send_all(std::string_view bytes, Deadline until);
  Result<std::size_t> receive_some(char* to, std::size_t bytes, Deadline until);
  Result<void> receive_all(char* to, std::size_t bytes, Deadline until);
  Result<void> wait(short what, Deadline until) const;
  template <class T> Result<T> closing(Result<T> result);

  Fd socket_;
  std::chrono::milliseconds timeout_;
  std::uint64_t next_id_ = 1;
  std::deque<nlohmann::json> events_; ///< that arrived while a reply was awaited
};

} // namespace smartio
