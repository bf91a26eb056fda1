#include "control.hpp"

#include "fd.hpp"
#include "frame.hpp"
#include "json.hpp"
#include "result.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <sys/stat.h>
#include <unistd.h>

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

Control::Control(Context& context, Command command)
    : context_(context), command_(std::move(command)), acceptor_(context.io),
      accepting_(
          acceptor_, [this](stream_protocol::socket socket) { accept(std::move(socket)); },
          [this](const char* text) { context_.log(4, text); }),
      retry_(context.io), most_(share_of_descriptors(8, 1024)) {}

Result<void> Control::listen(const std::string& path) {
  path_ = path;
  if (const auto watched = watch_path(); !watched)
    context_.log(6, "if the control socket is removed it stays away: " + to_string(watched.error()));
  return open();
}

/// What the watch tells is for later: it may be another one by then.
Result<void> Control::watch_path() {
  removal_ = TRY(RemovalWatch::open(context_.io, path_, [this] { asio::post(context_.io, [this] { open_again(); }); }));
  return {};
}

/// Leaves what it has if that fails: its directory may be back in a moment.
Result<void> Control::open() {
  ::unlink(path_.c_str());
  boost::system::error_code error;
  stream_protocol::acceptor fresh(context_.io);
  open_close_on_exec(fresh, stream_protocol(), error);
  // bind gives the file this mode; changing it afterwards would be too late.
  if (!error && ::fchmod(fresh.native_handle(), 0600) != 0) return fail_errno(errno, "set the mode of a socket");
  if (!error) fresh.bind(stream_protocol::endpoint(path_), error);
  if (!error) fresh.listen(asio::socket_base::max_listen_connections, error);
  if (error) return fail_errno(error.value(), "listen on " + path_);
  if (acceptor_.is_open()) accepting_.accept_waiting();
  acceptor_ = std::move(fresh);
  return {};
}

/// Connections that are there stay. Tried each second where it cannot be done, which is said once.
void Control::open_again() {
  struct stat there {};
  if (!acceptor_.is_open()) return; // the node is stopping
  const bool gone = ::lstat(path_.c_str(), &there) != 0;
  auto done = gone ? open() : Result<void>{};
  if (done && gone) start();
  if (done) done = watch_path();
  if (!done && !std::exchange(lost_, true)) context_.log(3, path_ + " was removed: " + to_string(done.error()));
  if (done && (gone || lost_)) context_.log(4, path_ + " was removed by somebody, and is there again");
  lost_ = !done;
  if (done) return;
  retry_.expires_after(std::chrono::seconds(1));
  retry_.async_wait([this](boost::system::error_code error) {
    if (!error) open_again();
  });
}

void Control::start() {
  if (acceptor_.is_open()) accepting_.start();
}

void Control::accept(stream_protocol::socket socket) {
  if (streams_.size() >= most_) return;
  const auto control = new_id();
  const auto process = peer_of(socket.native_handle()).pid;
  const auto stream = std::make_shared<FrameStream>(FrameStream::Socket(std::move(socket)), core::frame_limit);
  streams_[control] = stream;
  stream->start(
      [this, control, process, weak = std::weak_ptr(stream)](const core::Frame& frame) {
        if (const auto self = weak.lock()) received(control, process, self, frame);
      },
      [this, control](const std::string&) {
        streams_.erase(control);
        programs_.erase(control);
        context_.handle(core::ControlClosed{control});
      });
}

bool Control::is_program(::pid_t pid) const {
  return std::ranges::any_of(programs_, [pid](const auto& program) { return program.second == pid; });
}

void Control::received(core::ControlId control, ::pid_t pid, const Stream& stream, const core::Frame& frame) {
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
    return reply(stream, *id, fail(Errc::bad_request, "'arguments' is not an object"), "");
  if (*name == "open") programs_[control] = pid;
  command_(control, *name, arguments == request->end() ? Json::object() : *arguments,
           [this, id = *id, name = *name, weak = std::weak_ptr(stream)](Result<Json> result, const std::string& note) {
             const auto self = weak.lock();
             if (!self) return;
             reply(self, id, std::move(result), note);
             if (name == "monitor") monitor(self);
           });
}

void Control::reply(const Stream& stream, std::uint64_t id, Result<Json> result, const std::string& note) {
  const auto* document = result ? result->get_ptr<const std::string*>() : nullptr;
  Json answer{{"id", id}};
  if (!result)
    answer["error"] = error_json(result.error());
  else if (document == nullptr)
    answer["result"] = std::move(*result);
  if (!note.empty()) answer["note"] = note;
  auto text = document == nullptr ? encode(answer)
                                  : core::encode_frame(core::FrameKind::json,
                                                       fmt::format(R"({{"id":{},"result":)", id) + *document + '}');
  if (text.size() > core::answer_limit) text = encode({{"id", id}, {"error", error_json(too_long(text.size()))}});
  stream->send(text);
}

void Control::monitor(const Stream& stream) {
  watchers_.push_back([weak = std::weak_ptr(stream)](const std::string& event) {
    const auto watching = weak.lock();
    if (watching) watching->send(core::encode_frame(core::FrameKind::json, "{\"event\":" + event + "}"));
    return watching != nullptr;
  });
}

void Control::emit(const Json& event) {
  const auto text = event.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::erase_if(watchers_, [&text](const Watcher& watcher) { return !watcher(text); });
}

void Control::stop_listening() {
  removal_.reset();
  retry_.cancel();
  boost::system::error_code ignored;
  acceptor_.close(ignored);
}

void Control::finish_all(const std::shared_ptr<void>& told) {
  for (const auto& [control, stream] : std::exchange(streams_, {})) stream->finish(told);
  watchers_.clear();
}

} // namespace smartio
