#include "control_client.hpp"

#include "result.hpp"

#include <array>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

namespace smartio {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr std::size_t largest_request = 1U << 20U;
constexpr std::size_t largest_reply = 16U << 20U;
constexpr std::size_t header_bytes = 5; // u32 length (of kind and payload), u8 kind
constexpr std::size_t most_events_kept = 4096;
constexpr char kind_json = 0;

std::error_code code_named(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, Errc>, 10> names{{
      {"no_such_device", Errc::no_such_device},
      {"no_such_node", Errc::no_such_node},
      {"wrong_state", Errc::wrong_state},
      {"busy", Errc::busy},
      {"revoked", Errc::revoked},
      {"peer_down", Errc::peer_down},
      {"timed_out", Errc::timed_out},
      {"no_window", Errc::no_window},
      {"bad_request", Errc::bad_request},
      {"not_permitted", Errc::not_permitted},
  }};
  for (const auto& [known, code] : names)
    if (known == name) return make_error_code(code);
  return std::make_error_code(std::errc::io_error);
}

std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

/// The frame of a request; Errc::bad_request if it is too long or not UTF-8.
Result<std::string> encode(std::uint64_t id, std::string_view command, const json& arguments) {
  const json request{{"id", id}, {"command", command}, {"arguments", arguments}};
  const std::string payload = request.dump(-1, ' ', false, json::error_handler_t::ignore);
  if (payload != request.dump(-1, ' ', false, json::error_handler_t::replace))
    return fail(Errc::bad_request, "The arguments of '{}' are not valid UTF-8.", command);
  if (payload.size() >= largest_request)
    return fail(Errc::bad_request, "The arguments of '{}' are longer than 1 MiB.", command);
  std::string frame(header_bytes, kind_json);
  for (unsigned i = 0; i < 4; ++i) frame[i] = static_cast<char>((payload.size() + 1) >> (8 * i) & 0xffU);
  return frame + payload;
}

std::size_t length_in(const std::array<char, header_bytes>& header) {
  std::size_t length = 0;
  for (unsigned i = 0; i < 4; ++i) length |= std::size_t{static_cast<unsigned char>(header[i])} << (8 * i);
  return length;
}

std::unexpected<Error> connect_failure(int number, const std::string& path) {
  switch (number) {
  case ENOENT:
  case ENOTDIR:
  case ECONNREFUSED: return fail(Errc::peer_down, "No smartiod answers on {}.", path);
  case EACCES:
  case EPERM: return fail(Errc::not_permitted, "Not permitted to use {}: only its owner and root may.", path);
  case EAGAIN: return fail(Errc::timed_out, "smartiod is too busy to answer on {}.", path);
  case EPROTOTYPE: return fail(Errc::peer_down, "{} is a socket of another kind than smartiod's.", path);
  default: return fail_errno(number, "connect " + path);
  }
}

std::unexpected<Error> nonsense(const char* what) {
  return std::unexpected(Error{std::make_error_code(std::errc::bad_message),
                               fmt::format("What answers on the control socket is no smartiod: it sent {}.", what)});
}

} // namespace

Result<ControlClient> ControlClient::connect(const std::string& run_dir, milliseconds timeout) {
  const std::string path = run_dir + "/smartiod.sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (run_dir.empty() || path.size() >= sizeof address.sun_path || path.find('\0') != std::string::npos)
    return fail(Errc::bad_request, "'{}' cannot be a run directory: a socket's path in it must fit {} bytes.", run_dir,
                sizeof address.sun_path - 1);
  std::memcpy(address.sun_path, path.data(), path.size());

  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "socket");
  // The one thing that can block in connect() here is a full backlog; the kernel bounds that wait by SO_SNDTIMEO.
  const timeval bound{.tv_sec = timeout.count() / 1000, .tv_usec = timeout.count() % 1000 * 1000};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return connect_failure(errno, path);
  return ControlClient(std::move(socket), timeout);
}

Result<json> ControlClient::call(std::string_view command, const json& arguments, std::string* note) {
  const std::uint64_t id = next_id_++;
  const std::string frame = TRY(encode(id, command, arguments));
  TRY(closing(send_all(frame, deadline())));
  json reply = TRY(closing(await_reply(id)));
  if (note != nullptr) *note = text_of(reply, "note");
  const auto error = reply.find("error");
  if (error == reply.end()) return std::move(reply["result"]);
  return std::unexpected(Error{code_named(text_of(*error, "code")), text_of(*error, "message")});
}

Result<json> ControlClient::await_reply(std::uint64_t id) {
  while (true) {
    json frame = TRY(receive_frame());
    if (const auto event = frame.find("event"); event != frame.end()) {
      if (events_.size() >= most_events_kept) return nonsense("events instead of a reply");
      events_.push_back(std::move(*event));
      continue;
    }
    const auto found = frame.find("id");
    if (found == frame.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() != id)
      return nonsense("the reply to something else");
    const auto result = frame.find("result");
    const auto error = frame.find("error");
    const bool is_result = result != frame.end() && result->is_object() && error == frame.end();
    const bool is_error = error != frame.end() && error->is_object() && !text_of(*error, "message").empty();
    if (!is_result && !is_error) return nonsense("a reply that is neither result nor error");
    return frame;
  }
}

Result<bool> ControlClient::next_event(json& event, std::optional<milliseconds> wait_for) {
  if (events_.empty()) {
    Deadline until;
    if (wait_for) until = std::chrono::steady_clock::now() + *wait_for;
    TRY(wait(POLLIN, until));
    char first = 0;
    if (socket_ && ::recv(socket_.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT) == 0) return false;
    json frame = TRY(closing(receive_frame()));
    const auto found = frame.find("event");
    if (found == frame.end() || !found->is_object()) return closing<bool>(nonsense("something else than an event"));
    events_.push_back(std::move(*found));
  }
  event = std::move(events_.front());
  events_.pop_front();
  return true;
}

bool ControlClient::is_open() const {
  char first = 0;
  return socket_ && ::recv(socket_.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

Result<json> ControlClient::receive_frame() {
  const Deadline until = deadline();
  std::array<char, header_bytes> header{};
  TRY(receive_all(header.data(), header.size(), until));
  const std::size_t length = length_in(header);
  if (length < 2 || length > largest_reply) return nonsense("a frame of a length that cannot be");
  if (header.back() != kind_json) return nonsense("a frame of an unknown kind");
  std::string payload(length - 1, '\0');
  TRY(receive_all(payload.data(), payload.size(), until));
  json frame = json::parse(payload, nullptr, false);
  if (!frame.is_object()) return nonsense("something that is no JSON object");
  return frame;
}

Result<void> ControlClient::send_all(std::string_view bytes, Deadline until) {
  while (!bytes.empty()) {
    TRY(wait(POLLOUT, until));
    const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    else if (errno == EPIPE || errno == ECONNRESET)
      return fail(Errc::peer_down, "smartiod closed the control connection.");
    else if (errno != EAGAIN && errno != EINTR)
      return fail_errno(errno, "send to the control socket");
  }
  return {};
}

Result<void> ControlClient::receive_all(char* to, std::size_t bytes, Deadline until) {
  while (bytes > 0) {
    const std::size_t got = TRY(receive_some(to, bytes, until));
    to += got;
    bytes -= got;
  }
  return {};
}

/// At least one byte, or an error.
Result<std::size_t> ControlClient::receive_some(char* to, std::size_t bytes, Deadline until) {
  while (true) {
    TRY(wait(POLLIN, until));
    const ssize_t got = ::recv(socket_.get(), to, bytes, MSG_DONTWAIT);
    if (got > 0) return static_cast<std::size_t>(got);
    if (got == 0 || errno == ECONNRESET) return fail(Errc::peer_down, "smartiod closed the control connection.");
    if (errno != EAGAIN && errno != EINTR) return fail_errno(errno, "receive from the control socket");
  }
}

Result<void> ControlClient::wait(short what, Deadline until) const {
  if (!socket_) return fail(Errc::peer_down, "The control connection to smartiod is closed.");
  while (true) {
    int left = -1;
    if (until) {
      const auto now = std::chrono::steady_clock::now();
      left = now >= *until ? 0 : static_cast<int>(std::chrono::ceil<milliseconds>(*until - now).count());
    }
    pollfd ready{.fd = socket_.get(), .events = what, .revents = 0};
    const int count = ::poll(&ready, 1, left);
    if (count > 0) return {};
    if (count == 0) return fail(Errc::timed_out, "smartiod gave no answer in time.");
    if (errno != EINTR) return fail_errno(errno, "poll on the control socket");
  }
}

/// A connection that failed in mid-message cannot be used again.
template <class T> Result<T> ControlClient::closing(Result<T> result) {
  if (!result) socket_.reset();
  return result;
}

} // namespace smartio
