// The control socket of the shell: requests in, replies and events out.
#include "shell.hpp"

#include "result.hpp"

#include <algorithm>
#include <sys/socket.h>

namespace smartio {

namespace asio = boost::asio;
using asio::local::stream_protocol;
using core::Json;

namespace {

std::string encode(const Json& message) {
  return core::encode_frame(core::FrameKind::json, message.dump(-1, ' ', false, Json::error_handler_t::replace));
}

Json error_json(const Error& error) {
  const bool ours = error.code.category() == smartio_category();
  return {{"code", ours ? core::name_of(static_cast<Errc>(error.code.value())) : "system"},
          {"message", to_string(error)}};
}

Error too_long(std::size_t bytes) {
  return {std::make_error_code(std::errc::message_size),
          fmt::format("the answer has {} bytes, and no more than {} can be sent", bytes, core::answer_limit)};
}

} // namespace

void Shell::add_control(stream_protocol::socket socket) {
  if (control_streams_.size() >= most_controls_) return;
  const auto control = new_control();
  ::ucred peer{};
  ::socklen_t size = sizeof peer;
  ::getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &peer, &size);
  const auto stream = std::make_shared<FrameStream>(FrameStream::Socket(std::move(socket)), core::frame_limit);
  control_streams_[control] = stream;
  stream->start(
      [this, control, pid = peer.pid, weak = std::weak_ptr(stream)](const core::Frame& frame) {
        if (const auto self = weak.lock()) control_frame(control, pid, self, frame);
      },
      [this, control](const std::string&) {
        control_streams_.erase(control);
        programs_.erase(control);
        handle(core::ControlClosed{control});
      });
}

bool Shell::is_program(::pid_t pid) const {
  return std::ranges::any_of(programs_, [pid](const auto& program) { return program.second == pid; });
}

void Shell::control_frame(core::ControlId control, ::pid_t pid, const std::shared_ptr<FrameStream>& stream,
                          const core::Frame& frame) {
  Result<Json> request = fail(Errc::bad_request, "only JSON requests are known here");
  if (frame.kind == core::FrameKind::json) request = core::parse_object(frame.payload);
  const auto id = request ? core::get_number(*request, "id") : Result<std::uint64_t>(0);
  const auto name = request ? core::get_string(*request, "command") : std::unexpected(request.error());
  if (!request || !id || !name) {
    const auto& error = !request ? request.error() : !id ? id.error() : name.error();
    return stream->send(encode({{"id", id.value_or(0)}, {"error", error_json(error)}}));
  }
  const auto arguments = request->find("arguments");
  if (arguments != request->end() && !arguments->is_object())
    return stream->send(
        encode({{"id", *id}, {"error", {{"code", "bad_request"}, {"message", "'arguments' is not an object"}}}}));
  if (*name == "open") programs_[control] = pid;
  command(control, *name, arguments == request->end() ? Json::object() : *arguments,
          [this, id = *id, name = *name, weak = std::weak_ptr(stream)](Result<Json> result, const std::string& note) {
            const auto self = weak.lock();
            if (!self) return;
            Json reply{{"id", id}};
            if (!result)
              reply["error"] = error_json(result.error());
            else
              reply["result"] = std::move(*result);
            if (!note.empty()) reply["note"] = note;
            auto text = encode(reply);
            if (text.size() > core::answer_limit)
              text = encode({{"id", id}, {"error", error_json(too_long(text.size()))}});
            self->send(std::move(text));
            if (name != "monitor") return;
            watchers_.push_back([weak](const std::string& event) {
              const auto watching = weak.lock();
              if (watching) watching->send(core::encode_frame(core::FrameKind::json, "{\"event\":" + event + "}"));
              return watching != nullptr;
            });
          });
}

} // namespace smartio
