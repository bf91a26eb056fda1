#include "loan_socket.hpp"

#include "result.hpp"

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <filesystem>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace smartio {

namespace asio = boost::asio;

namespace {

/// The directory and the ones above it up to `loans`, mode 0711: only the socket itself is guarded.
Result<void> make_directory(const std::string& directory) {
  for (const auto& path : {std::filesystem::path(directory).parent_path().string(), directory}) {
    if (::mkdir(path.c_str(), 0711) != 0 && errno != EEXIST) return fail_errno(errno, "make directory " + path);
  }
  return {};
}

} // namespace

LoanSocket::LoanSocket(asio::io_context& io, Options options, Events events)
    : io_(io), options_(std::move(options)), events_(std::move(events)), patience_(io) {}

std::shared_ptr<LoanSocket> LoanSocket::open(asio::io_context& io, Options options, Events events) {
  std::shared_ptr<LoanSocket> self(new LoanSocket(io, std::move(options), std::move(events)));
  self->options_.lender.open([self](Result<OpenedDevice> device) { self->fabric_proved(std::move(device)); });
  return self;
}

void LoanSocket::fabric_proved(Result<OpenedDevice> device) {
  if (closing_) {
    if (device) device->close([] {});
    return;
  }
  Result<void> ready;
  if (!device && device.error().code == Errc::no_window)
    ready = std::unexpected(device.error());
  else if (!device)
    ready = fail(Errc::peer_down, "no common fabric with the lender: {}", to_string(device.error()));
  else {
    keep_spare(std::move(*device));
    ready = listen();
  }
  if (!ready)
    events_(core::LoanOpened{options_.loan, std::unexpected(ready.error())});
  else
    events_(core::LoanOpened{options_.loan, options_.directory + "/cntrl"});
}

/// For the first client, unless it is lost before that comes: then that has one of its own.
void LoanSocket::keep_spare(OpenedDevice device) {
  spare_ = std::move(device);
  spare_.device->on_lost([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self || !self->spare_.device) return;
    const auto gone = std::make_shared<OpenedDevice>(std::exchange(self->spare_, {})); // this is called by it
    boost::asio::post(self->io_, [gone] { gone->close([] {}); });
  });
}

Result<void> LoanSocket::listen() {
  const auto path = options_.directory + "/cntrl";
  TRY(make_directory(options_.directory));
  server_ = TRY(vfio::user::Server::listen(
      io_, path,
      [weak = weak_from_this()](const ::ucred& client) -> std::expected<std::shared_ptr<vfio::Device>, int> {
        const auto self = weak.lock();
        if (!self) return std::unexpected(ENODEV);
        return self->accept(client);
      },
      [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->left();
      }));
  return give_to_owner(path);
}

Result<void> LoanSocket::give_to_owner(const std::string& path) const {
  if (options_.owner.empty()) return {};
  const auto colon = options_.owner.find(':');
  const auto user = options_.owner.substr(0, colon);
  const auto* account = ::getpwnam(user.c_str());
  if (account == nullptr) return fail(Errc::bad_request, "there is no user '{}'", user);
  ::gid_t group = account->pw_gid;
  if (colon != std::string::npos) {
    const auto* entry = ::getgrnam(options_.owner.c_str() + colon + 1);
    if (entry == nullptr) return fail(Errc::bad_request, "there is no group '{}'", options_.owner.substr(colon + 1));
    group = entry->gr_gid;
    if (::chmod(path.c_str(), 0660) != 0) return fail_errno(errno, "chmod " + path);
  }
  if (::chown(path.c_str(), account->pw_uid, group) != 0) return fail_errno(errno, "chown " + path);
  return {};
}

/// root, the user this runs as, and the members of the trusted group.
bool LoanSocket::trusts(const ::ucred& client) const {
  if (client.uid == 0 || client.uid == ::geteuid()) return true;
  const auto* group = options_.trusted_group.empty() ? nullptr : ::getgrnam(options_.trusted_group.c_str());
  if (group == nullptr) return false;
  const auto wanted = group->gr_gid;
  const auto* account = ::getpwuid(client.uid);
  if (client.gid == wanted || account == nullptr) return client.gid == wanted;
  std::array<::gid_t, 256> groups{};
  int count = groups.size();
  if (::getgrouplist(account->pw_name, account->pw_gid, groups.data(), &count) < 0) return false;
  return std::find(groups.begin(), groups.begin() + count, wanted) != groups.begin() + count;
}

std::expected<std::shared_ptr<vfio::Device>, int> LoanSocket::accept(const ::ucred& client) {
  if (closing_) return std::unexpected(ENODEV);
  if (session_) return std::unexpected(EBUSY);
  session_ = std::make_shared<Session>();
  session_->client = client;
  session_->device = std::make_shared<BorrowedDevice>(trusts(client), [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->usage_changed();
  });
  problem_.clear();
  const auto device = session_->device;
  if (!is_program(client.pid)) serve_virtual_machine(*session_);
  const std::shared_ptr<VmDevice> guarded = session_->guarded;
  if (spare_.device)
    attach(device, std::exchange(spare_, {}));
  else
    options_.lender.open([self = shared_from_this(), device](Result<OpenedDevice> lent) {
      const bool wanted = self->session_ && self->session_->device == device && !self->closing_;
      if (lent && wanted) return self->attach(device, std::move(*lent));
      if (lent) lent->close([] {});
      device->revoke(true);
    });
  usage_changed();
  if (guarded) return guarded;
  return device;
}

void LoanSocket::revoke(bool orderly) {
  session_->device->revoke(orderly);
  if (!session_->guarded) return;
  if (orderly)
    session_->guarded->taken_back();
  else
    session_->guarded->lost();
}

void LoanSocket::serve_virtual_machine(Session& session) {
  session.guarded = std::make_shared<VmDevice>(
      session.device,
      [weak = weak_from_this(), device = session.device.get()](std::string reason) {
        const auto self = weak.lock();
        if (!self || !self->session_ || self->session_->device.get() != device) return;
        self->problem_ = std::move(reason);
        self->usage_changed();
      },
      [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->usage_changed();
      });
}

void LoanSocket::attach(const std::shared_ptr<BorrowedDevice>& device, OpenedDevice lent) {
  lent.device->on_lost([weak = weak_from_this(), device, why_lost = lent.why_lost] {
    const auto self = weak.lock();
    if (!self || self->closing_ || !self->session_ || self->session_->device != device) return;
    self->revoke(false);
    const auto why = why_lost ? why_lost() : std::string();
    self->events_(core::FabricLost{self->options_.loan, why.empty() ? self->options_.lender.lost : why});
  });
  device->connected(std::move(lent));
}

/// The client has gone: closing the connection to the lender makes it clean up.
void LoanSocket::left() {
  if (!session_) return;
  session_->device->close();
  session_.reset();
  if (!closing_) return usage_changed();
  closed();
  const auto last_reference = std::move(self_);
}

void LoanSocket::usage_changed() {
  core::Usage usage;
  if (session_) {
    usage = session_->device->usage();
    usage.client = is_program(session_->client.pid) ? "libsmartio" : "vfio-user";
    usage.pid = session_->client.pid;
    if (session_->guarded) usage.unreachable_windows = session_->guarded->unreachable();
  }
  usage.problem = problem_;
  // Completions and accepts come from deep within the server: the event is for later.
  asio::post(io_, [self = shared_from_this(), usage] {
    self->events_(core::UsageChanged{self->options_.loan, usage});
  });
}

void LoanSocket::close(bool orderly) {
  if (closing_) return;
  closing_ = true;
  drop_spare();
  std::error_code ignored;
  std::filesystem::remove(options_.directory + "/cntrl", ignored);
  std::filesystem::remove(options_.directory, ignored);
  if (!session_) return closed();
  revoke(orderly);
  if (const auto connection = server_ ? server_->connection() : nullptr) connection->withdraw_registers();
  patience_.expires_after(client_patience);
  patience_.async_wait([self = shared_from_this()](boost::system::error_code error) {
    if (!error) self->client_stays();
  });
}

/// What the client has mapped would keep the lender's device open. A program on libsmartio lets go at once unless it is
/// stopped or broken, and is ended then; others are named by the lender.
void LoanSocket::client_stays() {
  const auto pid = session_->client.pid;
  const auto connection = server_ ? server_->connection() : nullptr;
  if (session_->device->holds_function() && is_program(pid) && pid != ::getpid() && connection)
    connection->kill_process();
  session_->device->close();
  closed();
}

/// Reports once; the object lives on until a client that stays has left.
void LoanSocket::closed() {
  patience_.cancel();
  if (std::exchange(reported_, true)) return;
  if (session_) self_ = shared_from_this();
  asio::post(io_, [self = shared_from_this()] {
    if (!self->session_) self->server_.reset();
    self->events_(core::LoanClosed{self->options_.loan});
  });
}

void LoanSocket::drop_spare() {
  auto spare = std::exchange(spare_, {});
  if (spare.device) spare.close([] {});
}

void LoanSocket::abandon() {
  closing_ = reported_ = true;
  patience_.cancel();
  self_.reset();
  drop_spare();
  if (session_) session_->device->close();
  server_.reset();
  std::error_code ignored;
  std::filesystem::remove(options_.directory, ignored);
}

} // namespace smartio
