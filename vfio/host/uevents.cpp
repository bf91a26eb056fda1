#include "uevents.hpp"

#include "result.hpp"

#include <algorithm>
#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <linux/netlink.h>
#include <string_view>
#include <sys/socket.h>

namespace smartio::vfio::host {
namespace {

constexpr std::uint32_t kernel_group = 1; ///< udev repeats what it has handled in group 2
constexpr std::size_t largest = 16384;    ///< a message is at most 2048 bytes and a path (UEVENT_BUFFER_SIZE)
constexpr int room = 1 << 20;             ///< bytes of messages that may wait
constexpr std::chrono::seconds pause{1};  ///< before a socket that failed is replaced

std::optional<Uevent::Kind> kind_of(std::string_view action) {
  if (action == "add") return Uevent::Kind::appeared;
  if (action == "remove") return Uevent::Kind::vanished;
  if (action == "bind") return Uevent::Kind::bound;
  if (action == "unbind") return Uevent::Kind::unbound;
  return std::nullopt;
}

/// ".../0000:06:00.0/nvme/nvme0": the function of an NVMe controller.
std::optional<Bdf> function_of(std::string_view path) {
  const auto end = path.find("/nvme/");
  if (end == path.npos) return std::nullopt;
  path = path.substr(0, end);
  return parse_bdf(path.substr(path.rfind('/') + 1));
}

Result<Fd> open_socket() {
  Fd socket(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  if (!socket) return fail_errno(errno, "socket NETLINK_KOBJECT_UEVENT");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = kernel_group;
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail_errno(errno, "bind NETLINK_KOBJECT_UEVENT");
  // Without the privilege the usual room has to do; what does not fit is told as lost.
  [[maybe_unused]] const int ignored = ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  return socket;
}

enum class Got { event, nothing_of_interest, no_more, error };

Got receive(int socket, Uevent& event) {
  std::array<std::byte, largest> buffer;
  sockaddr_nl sender{};
  socklen_t size = sizeof sender;
  const auto got =
      ::recvfrom(socket, buffer.data(), buffer.size(), MSG_TRUNC, reinterpret_cast<sockaddr*>(&sender), &size);
  if (got < 0 && errno == ENOBUFS) {
    event = {.kind = Uevent::Kind::lost, .bdf = {}};
    return Got::event;
  }
  if (got < 0 && errno == EINTR) return Got::nothing_of_interest;
  if (got < 0) return errno == EAGAIN ? Got::no_more : Got::error;
  // Root may send to this group too: only port 0 is the kernel.
  const bool from_kernel = size == sizeof sender && sender.nl_pid == 0;
  if (!from_kernel || static_cast<std::size_t>(got) > buffer.size()) return Got::nothing_of_interest;
  const auto parsed = parse_uevent(std::span(buffer).first(static_cast<std::size_t>(got)));
  if (!parsed) return Got::nothing_of_interest;
  event = *parsed;
  return Got::event;
}

} // namespace

std::optional<Uevent> parse_uevent(std::span<const std::byte> message) {
  std::string_view text(reinterpret_cast<const char*>(message.data()), message.size());
  std::optional<Uevent::Kind> kind;
  std::optional<Bdf> bdf, parent;
  std::string_view subsystem;
  bool connected = false;
  // "ACTION@PATH", then "KEY=VALUE", each ending with a zero byte.
  for (bool first = true; !text.empty(); first = false) {
    const auto end = text.find('\0');
    if (end == text.npos) return std::nullopt;
    const auto line = text.substr(0, end);
    text.remove_prefix(end + 1);
    if (first && line.find('@') == line.npos) return std::nullopt;
    if (line.starts_with("ACTION=")) kind = kind_of(line.substr(7));
    if (line.starts_with("DEVPATH=")) parent = function_of(line.substr(8));
    if (line.starts_with("SUBSYSTEM=")) subsystem = line.substr(10);
    if (line.starts_with("PCI_SLOT_NAME=")) bdf = parse_bdf(line.substr(14));
    connected = connected || line == "NVME_EVENT=connected";
  }
  if (subsystem == "nvme" && connected && parent) return Uevent{Uevent::Kind::identified, *parent};
  if (subsystem != "pci" || !kind || !bdf) return std::nullopt;
  return Uevent{*kind, *bdf};
}

struct Uevents::State : std::enable_shared_from_this<State> {
  State(boost::asio::any_io_executor executor, Fd fd, Handler to)
      : socket(executor, fd.release()), timer(std::move(executor)), handler(std::move(to)) {}

  void wait() {
    socket.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                      [self = shared_from_this()](const boost::system::error_code& error) {
                        if (!error) return self->read_all();
                        if (self->socket.is_open()) self->listen_again();
                      });
  }

  void read_all() {
    Uevent event{};
    for (;;) {
      if (!socket.is_open()) return; // the handler has ended it
      const auto got = receive(socket.native_handle(), event);
      if (got == Got::error) return listen_again();
      if (got == Got::no_more) return wait();
      if (got == Got::event) handler(event);
    }
  }

  /// What has failed may work again; what happened meanwhile is lost.
  void listen_again() {
    timer.expires_after(pause);
    timer.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
      if (error || self->ended) return;
      auto fresh = open_socket();
      if (!fresh) return self->listen_again();
      boost::system::error_code ignored;
      self->socket.close(ignored);
      self->socket.assign(fresh->release(), ignored);
      self->handler({.kind = Uevent::Kind::lost, .bdf = {}});
      if (!self->ended) self->wait();
    });
  }

  void end() noexcept {
    ended = true;
    boost::system::error_code ignored;
    socket.close(ignored);
    timer.cancel();
  }

  boost::asio::posix::stream_descriptor socket;
  boost::asio::steady_timer timer;
  bool ended = false;
  Handler handler;
};

Result<Uevents> Uevents::open(boost::asio::any_io_executor executor, Handler handler) {
  auto socket = TRY(open_socket());
  Uevents uevents(std::make_shared<State>(std::move(executor), std::move(socket), std::move(handler)));
  uevents.state_->wait();
  return uevents;
}

Uevents::Uevents(Uevents&&) noexcept = default;
Uevents& Uevents::operator=(Uevents&& other) noexcept {
  if (this != &other) {
    close();
    state_ = std::move(other.state_);
  }
  return *this;
}
Uevents::~Uevents() { close(); }
int Uevents::fd() const noexcept { return state_->socket.native_handle(); }

void Uevents::close() noexcept {
  if (state_) state_->end();
}

} // namespace smartio::vfio::host
