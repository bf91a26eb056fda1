#include "device_core.hpp"

#include "bar.hpp"
#include "mapping.hpp"
#include "open_loan.hpp"
#include "quiet_thread.hpp"

#include <algorithm>

namespace smartio::detail {
namespace {

// A lender waits 500 ms for its borrowers to let go; the answer to the last unmap gets part of that.
constexpr std::chrono::milliseconds unmap_grace{200};

// PCI Express Base 5.0, 7.7.2.2: the table size field of MSI-X has 11 bits.
constexpr std::uint32_t max_vectors = 2048;

} // namespace

DeviceCore::DeviceCore(std::shared_ptr<Loan> of) : loan(std::move(of)) {}

DeviceCore::~DeviceCore() {
  boost::asio::post(io, [this] {
    boost::system::error_code ignored;
    err_event.close(ignored);
    req_event.close(ignored);
    grace.cancel();
    if (client) client->close();
    client.reset();
    stay.reset();
  });
  if (thread.joinable()) thread.join();
}

Result<std::shared_ptr<DeviceCore>> DeviceCore::open(const std::string& path, std::chrono::milliseconds timeout,
                                                     std::shared_ptr<Loan> loan) {
  auto core = std::make_shared<DeviceCore>(std::move(loan));
  core->revoked_fd = TRY(make_eventfd());
  core->thread = TRY(quiet_thread([self = core.get()] { self->io.run(); }));
  if (auto connected = core->connect(path, timeout); !connected) return std::unexpected(connected.error());
  if (auto described = core->describe(); !described) return std::unexpected(described.error());
  if (auto identified = core->identify(path); !identified) return std::unexpected(identified.error());
  if (auto watched = core->watch_errors(); !watched) return std::unexpected(watched.error());
  return core;
}

Result<void> DeviceCore::connect(const std::string& path, std::chrono::milliseconds timeout) {
  return await<Result<void>>([this, &path, timeout](auto done) {
    vfio::user::Client::connect(io, path, timeout, [this, done](Result<std::shared_ptr<vfio::user::Client>> opened) {
      if (!opened) return done(std::unexpected(std::move(opened).error()));
      client = std::move(*opened);
      client->on_lost([this] { take_back(TakeBack::lost); });
      client->serve_mapped_memory();
      done({});
    });
  });
}

Result<void> DeviceCore::describe() {
  const auto info = TRY(request<vfio::Info>(vfio::GetInfo{}, "ask what the device is"));
  if (info.regions <= vfio::config_region || (info.flags & vfio::device_flag_pci) == 0)
    return fail(Errc::bad_request, "The device's server offers no PCI device");
  description.can_reset = (info.flags & vfio::device_flag_reset) != 0;
  description.slice = vfio::slice_of(info.flags);
  description.iovas = info.iovas;
  iovas = iova_allocator(description.slice, info.iovas); // nobody maps anything yet
  for (unsigned bar = 0; bar < description.bar_size.size(); ++bar) {
    const auto region = TRY(request<vfio::RegionInfo>(vfio::GetRegionInfo{bar}, fmt::format("ask for BAR {}", bar)));
    description.bar_size[bar] = region.size;
  }
  const auto config =
      TRY(request<vfio::RegionInfo>(vfio::GetRegionInfo{vfio::config_region}, "ask for the configuration space"));
  description.config_size = config.size;
  TRY(describe_interrupts(info.irqs));
  for (const std::uint32_t index : {vfio::err, vfio::req}) {
    if (info.irqs <= index) break;
    const auto irq = TRY(request<vfio::IrqInfo>(vfio::GetIrqInfo{index}, "ask for the error interrupts"));
    if (irq.count >= 1) description.end_interrupts.push_back(index);
  }
  return {};
}

/// What is lent is known already.
Result<void> DeviceCore::identify(const std::string& path) {
  if (loan) return identity = loan->info, Result<void>{};
  const auto head = TRY(request<vfio::Data>(vfio::RegionRead{vfio::config_region, 0, 12}, "ask what the device is"));
  if (head.bytes.size() != 12)
    return fail(Errc::bad_request, "A read of the configuration space gave {} bytes", head.bytes.size());
  const auto byte = [&head](std::size_t at) { return std::to_integer<std::uint32_t>(head.bytes[at]); };
  identity.address = "vfio-user:" + path;
  identity.vendor = static_cast<std::uint16_t>(byte(0) | byte(1) << 8);
  identity.device = static_cast<std::uint16_t>(byte(2) | byte(3) << 8);
  identity.class_code = byte(9) | byte(10) << 8 | byte(11) << 16;
  identity.state = DeviceState::borrowed;
  return {};
}

Result<void> DeviceCore::describe_interrupts(std::uint32_t kinds) {
  for (const std::uint32_t index : {vfio::msix, vfio::msi, vfio::intx}) {
    if (kinds <= index) continue;
    const auto irq = TRY(request<vfio::IrqInfo>(vfio::GetIrqInfo{index}, "ask for the interrupt vectors"));
    if (irq.count > max_vectors)
      return fail(Errc::bad_request, "The device's server claims {} interrupt vectors", irq.count);
    if (irq.count == 0) continue;
    description.interrupts = index;
    description.vectors = irq.count;
    description.vectors_fixed = (irq.flags & vfio::irq_flag_noresize) != 0;
    break;
  }
  return {};
}

Result<void> DeviceCore::watch_errors() {
  for (const auto index : description.end_interrupts) {
    Fd event = TRY(make_eventfd());
    vfio::SetIrqs assign{vfio::irq_data_eventfd | vfio::irq_action_trigger, index, 0, 1, {}, {}};
    assign.eventfds.push_back(TRY(event.duplicate()));
    TRY(request<vfio::Done>(std::move(assign), "register for the device's end"));
    await<bool>([this, &event, index](auto done) {
      boost::system::error_code ignored;
      (index == vfio::err ? err_event : req_event).assign(event.release(), ignored);
      index == vfio::err ? await_error() : await_request();
      done(true);
    });
  }
  return {};
}

void DeviceCore::await_error() {
  err_event.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](boost::system::error_code error) {
    if (!error) take_back(TakeBack::connected);
  });
}

void DeviceCore::await_request() {
  req_event.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](boost::system::error_code error) {
    if (error || revoked()) return;
    drain_eventfd(req_event.native_handle());
    confirm_request();
  });
}

/// A device that is wanted back reads as ones, as one that was pulled out. There are servers that signal REQ for
/// nothing (SPDK 24.01, with each admin completion).
void DeviceCore::confirm_request() {
  submit(vfio::RegionRead{vfio::config_region, 0, 2}, [this](const vfio::Reply& reply) { // the vendor
    const auto* read = reply ? std::get_if<vfio::Data>(&*reply) : nullptr;
    const bool there = read != nullptr && std::ranges::any_of(read->bytes, [](auto b) { return b != std::byte{0xff}; });
    there ? await_request() : take_back(TakeBack::connected);
  });
}

void DeviceCore::submit(vfio::Request request, vfio::Completion done) {
  if (revoked()) return done(std::unexpected(ENODEV));
  client->submit(std::move(request), std::move(done));
}

void DeviceCore::take_back(TakeBack how) {
  if (revoked_now.exchange(true, std::memory_order_acq_rel)) return;
  left = how == TakeBack::by_program;
  for (Bar* bar : bars) bar->become_ones();
  if (how == TakeBack::connected) {
    grace.expires_after(unmap_grace);
    grace.async_wait([this](boost::system::error_code) { // over, or cancelled by the answer
      if (client) client->close();
    });
  }
  if (how != TakeBack::lost) {
    dropping = true;
    client->submit(vfio::DmaUnmap{Iova{0}, 0, true}, [this](const vfio::Reply& reply) { dropped(reply.has_value()); });
  }
  signal_eventfd(revoked_fd.get());
}

Result<void> DeviceCore::give_back() {
  const std::scoped_lock lock(leaving);
  if (given_back) return *given_back;
  if (loan)
    if (const auto can = loan->can_give_back(); !can) return can;
  given_back = leave();
  return *given_back;
}

/// A loan that has ended is the lender's word that no window is left.
Result<void> DeviceCore::leave() {
  await<bool>([this](auto done) {
    take_back(TakeBack::by_program);
    done(true);
  });
  const bool windows_gone = await_dropped();
  await<bool>([this](auto done) {
    client->close();
    done(true);
  });
  const bool loan_over = loan && TRY(loan->give_back());
  if (loan_over) windows_dropped.store(true, std::memory_order_release);
  if (windows_gone || loan_over) return {};
  return fail(Errc::timed_out, "the device's server did not say that it has unmapped all memory");
}

/// The server's answer, or none within the grace.
void DeviceCore::dropped(bool confirmed) {
  if (confirmed) windows_dropped.store(true, std::memory_order_release);
  dropping = false;
  grace.cancel();
  for (const auto& tell : std::exchange(await_drop, {})) tell(confirmed);
}

bool DeviceCore::await_dropped() {
  return await<bool>([this](auto done) {
    if (dropping) return await_drop.push_back(std::move(done));
    done(windows_dropped.load(std::memory_order_acquire));
  });
}

Error DeviceCore::error_of(int number, const std::string& what) {
  switch (number) {
  case ENODEV:
  case ECANCELED:
  case ECONNRESET:
  case ENOTCONN:
  case EPIPE: return {make_error_code(Errc::revoked), "The device was taken back"};
  case ETIMEDOUT: return {make_error_code(Errc::timed_out), fmt::format("No answer in time to: {}", what)};
  case EPROTO:
    return {make_error_code(Errc::bad_request), fmt::format("The device's server gave nonsense to: {}", what)};
  default: return {std::error_code(number, std::system_category()), what};
  }
}

} // namespace smartio::detail
