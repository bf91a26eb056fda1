#include "nvme_service.hpp"

#include "announce.hpp"
#include "nvme/fault_commands.hpp"
#include "result.hpp"

#include <boost/asio/post.hpp>
#include <csignal>
#include <thread>

namespace smartio::sim {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr microseconds slice{50};     ///< of polling, between looks at the sockets
constexpr microseconds patience{300}; ///< of spinning after the last command
constexpr microseconds first_sleep{50}, longest_sleep{1000};

} // namespace

NvmeService::NvmeService(std::unique_ptr<nvme::Store> store, nvme::Identity identity, const nvme::Shape& shape)
    : store_(std::make_shared<nvme::FaultyStore>(std::move(store))), identity_(std::move(identity)), shape_(shape),
      flusher_(std::make_shared<nvme::Flusher>(store_, [this] { boost::asio::post(io_, [] {}); })),
      signals_(io_, SIGTERM, SIGINT, SIGUSR1), timer_(io_) {
  await_signal();
}

/// A flush that is held by a fault must not hold the flusher's end.
NvmeService::~NvmeService() { store_->set_faults({}); }

Result<void> NvmeService::listen_for_faults(const std::string& path) {
  fault_socket_ = TRY(FaultSocket::listen(io_, path, [this](std::string_view line) { return inject(line); }));
  return {};
}

bool NvmeService::inject(std::string_view line) {
  const auto faults = nvme::changed_by({*faults_, store_->faults()}, line);
  if (!faults) return false;
  *faults_ = faults->controller;
  store_->set_faults(faults->store);
  return true;
}

Result<void> NvmeService::listen(const std::string& path) {
  server_ = TRY(vfio::user::Server::listen(
      io_, path, [this](const ::ucred&) { return accept(); }, [this] { closed(); }));
  return {};
}

std::expected<std::shared_ptr<vfio::Device>, int> NvmeService::accept() {
  if (function_) return std::unexpected(EBUSY);
  auto function = nvme::NvmeFunction::create(store_, flusher_, identity_, shape_, faults_);
  if (!function) return std::unexpected(function.error().code.value());
  function_ = std::move(*function);
  ++clients_;
  return function_;
}

void NvmeService::closed() {
  past_ = counters_so_far();
  function_.reset();
}

nvme::ControllerCounters NvmeService::counters_so_far() const {
  nvme::ControllerCounters sum = past_;
  if (function_) sum += function_->counters();
  return sum;
}

void NvmeService::await_signal() {
  signals_.async_wait([this](const boost::system::error_code& error, int number) {
    if (!error) on_signal(number);
  });
}

void NvmeService::on_signal(int number) {
  if (number != SIGUSR1) {
    stopping_ = true;
    return;
  }
  announce(counters());
  await_signal();
}

std::string NvmeService::counters() const {
  const nvme::ControllerCounters now = counters_so_far();
  const nvme::StoreCounters stored = store_->counters();
  const auto& socket = server_->counters();
  return fmt::format(
      R"({{"messages":{},"errors":{},"malformed":{},"clients":{},"commands":{},"admin_commands":{},"io_commands":{},)"
      R"("failed_commands":{},"resets":{},"interrupts":{},"windows":{},"stable_writes":{},"flushes":{},)"
      R"("failed_flushes":{},"lost_flushes":{}}})",
      socket.messages, socket.errors, socket.malformed, clients_, now.admin_commands + now.io_commands,
      now.admin_commands, now.io_commands, now.failed_commands, now.resets, now.interrupts,
      function_ ? function_->windows() : 0, stored.stable_writes, stored.flushes, stored.failed_flushes,
      stored.lost_flushes);
}

void NvmeService::stop() {
  boost::asio::post(io_, [this] { stopping_ = true; });
}

void NvmeService::run() {
  auto last_work = Clock::now();
  auto pause = first_sleep;
  while (!stopping_) {
    io_.poll();
    if (stopping_) break;
    if (!function_ || !function_->needs_polling()) {
      io_.run_one();
      continue;
    }
    if (work()) {
      last_work = Clock::now();
      pause = first_sleep;
    } else if (Clock::now() - last_work > patience) {
      sleep(pause);
      pause = std::min(2 * pause, longest_sleep);
    } else {
      std::this_thread::yield(); // the driver may need this very processor
    }
  }
}

/// Polls the controller for a slice; says whether there was anything to do.
bool NvmeService::work() {
  const auto end = Clock::now() + slice;
  bool worked = false;
  do {
    worked = function_->poll() || worked;
  } while (Clock::now() < end);
  return worked;
}

/// Waits for a message or signal, but no longer than that.
void NvmeService::sleep(microseconds most) {
  timer_.expires_after(most);
  timer_.async_wait([](const boost::system::error_code&) {});
  io_.run_one();
}

} // namespace smartio::sim
