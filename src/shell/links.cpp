#include "links.hpp"

#include "addresses.hpp"
#include "frame.hpp"
#include "nonce.hpp"
#include "result.hpp"

#include <netinet/tcp.h>

namespace smartio {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr std::chrono::seconds dial_timeout{3};
constexpr std::size_t hello_limit = 128U << 10; ///< of a frame from whom this node has not greeted

/// Small messages go at once; a host that vanished is noticed although nothing is said.
void tune(tcp::socket& socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  using KeepIdle = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPIDLE>;
  using KeepInterval = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPINTVL>;
  socket.set_option(KeepIdle(10), ignored);
  socket.set_option(KeepInterval(5), ignored);
}

} // namespace

Links::Links(Context& context, DeviceFrame device_frame)
    : context_(context), device_frame_(std::move(device_frame)), acceptor_(context.io),
      accepting_(
          acceptor_, [this](tcp::socket socket) { accept(std::move(socket)); },
          [this](const char* text) { context_.log(4, text); }),
      names_(context.io), most_(share_of_descriptors(4, 4096)) {}

Result<void> Links::listen() {
  if (context_.config.listen.empty()) return {};
  TRY(core::check_listen(context_.config.listen));
  const auto [host, port] = core::split_endpoint(context_.config.listen);
  const auto number = parse_number(port, 10, 65535);
  error_code error;
  const auto address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  if (error || !number)
    return fail(Errc::bad_request, "'{}' is not an address to listen on: give ADDRESS:PORT", context_.config.listen);
  if (!address.is_loopback() && !context_.config.insecure)
    return fail(Errc::not_permitted,
                "{} is not a loopback address: peers are not authenticated, so --insecure is needed", host);
  const tcp::endpoint endpoint(address, static_cast<std::uint16_t>(*number));
  open_close_on_exec(acceptor_, endpoint.protocol(), error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) return fail_errno(error.value(), "listen on " + context_.config.listen);
  return {};
}

void Links::accept(tcp::socket socket) {
  if (links_.size() >= most_) context_.handle(core::Crowded{});
  if (links_.size() >= most_) return;
  error_code error;
  tune(socket);
  const auto from = socket.remote_endpoint(error);
  const auto link = add(FrameStream::Socket(std::move(socket)));
  context_.handle(core::Accepted{link, make_nonce(), error ? "?" : from.address().to_string()});
  start(link);
}

core::LinkId Links::add(FrameStream::Socket socket) {
  const auto link = next_++;
  links_[link] = std::make_shared<FrameStream>(std::move(socket), hello_limit);
  return link;
}

void Links::start(core::LinkId link) {
  const auto found = links_.find(link);
  if (found == links_.end()) return;
  found->second->start([this, link](const core::Frame& frame) { received(link, frame); },
                       [this, link](const std::string& why) {
                         context_.handle(core::LinkDown{link, why});
                       });
}

void Links::received(core::LinkId link, const core::Frame& frame) {
  if (frame.kind == core::FrameKind::vfio_user) return device_frame_(link, frame.payload);
  auto message = core::decode(frame.payload);
  if (!message) return context_.handle(core::LinkDown{link, "it sent a malformed message: " + message.error().context});
  context_.handle(core::Received{link, std::move(*message)});
}

void Links::perform(const core::Dial& effect) {
  const auto [host, port] = core::split_endpoint(effect.address);
  names_.find(host, port, [this, node = effect.node](Result<Names::Endpoints> found) {
    if (context_.stopping) return;
    if (!found) return context_.handle(core::DialFailed{node, to_string(found.error())});
    connect_next(node, std::make_shared<Names::Endpoints>(found->rbegin(), found->rend()), "it has no address");
  });
}

/// Each address has its own time: one that nobody answers at does not keep the next from being tried. The first is the
/// last of the list; `why` is told when there is none left.
void Links::connect_next(NodeId node, std::shared_ptr<Names::Endpoints> endpoints, std::string why) {
  struct Dialling {
    tcp::socket socket;
    asio::steady_timer timer;
  };
  if (endpoints->empty()) return context_.handle(core::DialFailed{node, std::move(why)});
  const auto endpoint = endpoints->back();
  endpoints->pop_back();
  const auto dialling = std::make_shared<Dialling>(tcp::socket(context_.io), asio::steady_timer(context_.io));
  dialling->timer.expires_after(dial_timeout);
  dialling->timer.async_wait([dialling](error_code error) {
    error_code ignored;
    if (!error) dialling->socket.close(ignored);
  });
  error_code opened; // if it fails, connecting does
  open_close_on_exec(dialling->socket, endpoint.protocol(), opened);
  dialling->socket.async_connect(endpoint, [this, node, dialling, endpoints](error_code error) {
    dialling->timer.cancel();
    if (context_.stopping) return;
    if (error || !dialling->socket.is_open())
      return connect_next(node, endpoints,
                          error == asio::error::operation_aborted || !error ? "no answer" : error.message());
    tune(dialling->socket);
    const auto link = add(FrameStream::Socket(std::move(dialling->socket)));
    context_.handle(core::Dialled{node, link, make_nonce()});
    start(link);
  });
}

/// What many are told is encoded once.
void Links::perform(core::Send& effect) {
  const auto link = links_.find(effect.link);
  if (link == links_.end()) return;
  if (std::holds_alternative<core::Hello>(effect.message)) link->second->set_limit(core::frame_limit);
  if (last_frame_.empty() || last_sent_ != effect.message) {
    last_sent_ = std::move(effect.message);
    last_frame_ = core::encode_frame(core::FrameKind::json, core::encode(last_sent_));
  }
  link->second->send(last_frame_);
}

void Links::perform(const core::Drop& effect) {
  const auto link = links_.extract(effect.link);
  if (!link.empty()) link.mapped()->finish();
}

void Links::send(core::LinkId link, std::string_view frame) {
  if (const auto found = links_.find(link); found != links_.end()) found->second->send(frame);
}

void Links::start() {
  if (acceptor_.is_open()) accepting_.start();
}

void Links::stop_listening() {
  error_code ignored;
  acceptor_.close(ignored);
}

void Links::close_all() {
  for (const auto& [link, stream] : std::exchange(links_, {})) stream->close();
}

} // namespace smartio
