#include "controller.hpp"

namespace smartio::sim::nvme {

namespace {

// Controller Configuration and Status, 1.4, 3.1.5 and 3.1.6.
constexpr std::uint32_t cc_enable = 1, cc_shutdown = 3U << 14, cc_writable = 0x00fffff1;
constexpr std::uint32_t cc_command_set_page_arbitration = 0x3ff0; ///< CSS, MPS, AMS: only 0 is supported
constexpr std::uint32_t csts_ready = 1, csts_fatal = 2, csts_shutdown_occurring = 1U << 2,
                        csts_shutdown_complete = 2U << 2;

constexpr std::uint32_t low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
constexpr std::uint32_t high(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); }
void set_low(std::uint64_t& to, std::uint32_t value) { to = (to & ~std::uint64_t{0xffffffff}) | value; }
void set_high(std::uint64_t& to, std::uint32_t value) { to = low(to) | static_cast<std::uint64_t>(value) << 32; }

} // namespace

ControllerCounters& ControllerCounters::operator+=(const ControllerCounters& other) {
  admin_commands += other.admin_commands;
  io_commands += other.io_commands;
  failed_commands += other.failed_commands;
  resets += other.resets;
  interrupts += other.interrupts;
  return *this;
}

Controller::Controller(GuestMemory& memory, Interrupts& interrupts, Doorbells& doorbells, Store& store,
                       Flusher& flusher, const Identity& identity, const Shape& shape, const Faults& faults)
    : shape_(shape), faults_(faults), interrupts_(interrupts), doorbells_(doorbells), flusher_(flusher),
      features_(shape, identity.namespaces), queues_(memory, interrupts, doorbells, events_),
      unsettled_(flusher, store), admin_(memory, queues_, features_, logs_, events_, unsettled_, identity, shape),
      io_(memory, store, flusher, features_, logs_, identity) {}

/// 3.1.1: contiguous queues required, no subsystem reset, the NVM command set, pages of 4 KiB only.
std::uint64_t Controller::capabilities() const {
  constexpr std::uint64_t contiguous = 1ULL << 16, ten_seconds = 20ULL << 24, nvm_command_set = 1ULL << 37;
  return (shape_.queue_entries - 1) | contiguous | ten_seconds | std::uint64_t{shape_.doorbell_stride} << 32 |
         nvm_command_set;
}

std::uint32_t Controller::read_register(std::uint32_t offset) const {
  switch (offset) {
  case register_offset::cap: return low(capabilities());
  case register_offset::cap + 4: return high(capabilities());
  case register_offset::vs: return 0x00010400;
  case register_offset::intms:
  case register_offset::intmc: return interrupt_mask_;
  case register_offset::cc: return configuration_;
  case register_offset::csts: return status();
  case register_offset::aqa: return admin_attributes_;
  case register_offset::asq: return low(admin_sq_);
  case register_offset::asq + 4: return high(admin_sq_);
  case register_offset::acq: return low(admin_cq_);
  case register_offset::acq + 4: return high(admin_cq_);
  default: return 0;
  }
}

void Controller::write_register(std::uint32_t offset, std::uint32_t value) {
  const bool enabled = (configuration_ & cc_enable) != 0;
  if (offset >= register_offset::aqa && enabled) return; // the admin queue stays put while it is in use
  switch (offset) {
  case register_offset::intms: interrupt_mask_ |= value; break;
  case register_offset::intmc: interrupt_mask_ &= ~value; break;
  case register_offset::cc: write_configuration(value); break;
  case register_offset::aqa: admin_attributes_ = value & 0x0fff0fff; break;
  case register_offset::asq: set_low(admin_sq_, value & ~(std::uint32_t{page_size} - 1)); break;
  case register_offset::asq + 4: set_high(admin_sq_, value); break;
  case register_offset::acq: set_low(admin_cq_, value & ~(std::uint32_t{page_size} - 1)); break;
  case register_offset::acq + 4: set_high(admin_cq_, value); break;
  default: break;
  }
}

void Controller::write_doorbell(std::uint32_t word, std::uint32_t value) {
  const auto index = doorbells_.index_of(word);
  const auto exists = [this](unsigned which) {
    return which % 2 == 0 ? queues_.submission(which / 2) != nullptr : queues_.completion(which / 2) != nullptr;
  };
  if (index && exists(*index)) {
    doorbells_.store(*index, value);
  } else if (running()) {
    events_.raise(ErrorEvent::invalid_doorbell_register);
  }
}

void Controller::write_configuration(std::uint32_t value) {
  const std::uint32_t before = configuration_;
  configuration_ = value & cc_writable;
  admin_.set_configuration(configuration_);
  if ((before & cc_enable) != 0 && (value & cc_enable) == 0) {
    ++counters_.resets;
    disable();
  }
  if ((before & cc_enable) == 0 && (value & cc_enable) != 0) enable();
  if ((before & cc_shutdown) == 0 && (value & cc_shutdown) != 0) {
    interrupts_.set_line(false);
    shutdown_flush_ = flusher_.start();
  }
}

void Controller::enable() {
  status_ = 0;
  shutdown_flush_.reset();
  const std::uint32_t sq_entries = (admin_attributes_ & 0xfff) + 1, cq_entries = (admin_attributes_ >> 16) + 1;
  if ((configuration_ & cc_command_set_page_arbitration) != 0 || sq_entries < 2 || cq_entries < 2) return fail();
  doorbells_.clear();
  queues_.create_completion(0, admin_cq_, cq_entries, 0);
  queues_.create_submission(0, admin_sq_, sq_entries, 0);
  status_ = csts_ready;
}

void Controller::disable() {
  interrupts_.set_line(false);
  queues_.reset();
  unsettled_.forget();
  shutdown_flush_.reset();
  events_.reset();
  features_.reset();
  status_ = 0;
  interrupt_mask_ = 0;
  cursor_ = 0;
}

std::uint32_t Controller::status() const {
  const std::uint32_t now = status_ | (faults_.fatal ? csts_fatal : 0);
  if (!shutdown_flush_) return now;
  if (!shutdown_flush_->done()) return now | csts_shutdown_occurring;
  return now | csts_shutdown_complete | (shutdown_flush_->get() != 0 ? csts_fatal : 0);
}

ControllerCounters Controller::counters() const {
  ControllerCounters now = counters_;
  now.interrupts = interrupts_.signals();
  return now;
}

void Controller::fail() {
  status_ |= csts_fatal;
  interrupts_.set_line(false);
}

bool Controller::running() const noexcept {
  return (status_ & (csts_ready | csts_fatal)) == csts_ready && !shutdown_flush_;
}

void Controller::reset() {
  disable();
  logs_ = {};
  configuration_ = admin_attributes_ = 0;
  admin_sq_ = admin_cq_ = 0;
}

bool Controller::poll(bool line_disabled) {
  if (!running()) return false;
  if (faults_.fatal) return fail(), true;
  queues_.scan();
  if (!queues_.post_waiting()) fail();
  bool worked = settle();
  const auto until = UnsettledCommands::Clock::now() + round_time;
  for (unsigned done = 0; done < round_commands && running() && unsettled_.size() < UnsettledCommands::limit; ++done) {
    if (!execute_next()) break;
    worked = true;
    if (UnsettledCommands::Clock::now() > until) break;
  }
  report_events();
  if (running()) queues_.signal(line_disabled || (interrupt_mask_ & 1) != 0, faults_.interrupts_lost);
  return worked;
}

/// Carries on what was begun; says whether that was work, rather than waiting for others.
bool Controller::settle() {
  if (unsettled_.size() == 0) return false;
  const bool worked = unsettled_.advance();
  const auto now = UnsettledCommands::Clock::now();
  while (running() && !faults_.completions_held) {
    const auto settled = unsettled_.take(now);
    if (!settled) break;
    complete(settled->queue, settled->entry, settled->outcome);
  }
  return worked;
}

bool Controller::execute_next() {
  for (unsigned i = 1; i <= io_queues + 1; ++i) {
    const unsigned queue = (cursor_ + i) % (io_queues + 1);
    if (!queues_.ready(queue)) continue;
    cursor_ = queue;
    SubmissionEntry command;
    if (queues_.fetch(queue, command)) {
      execute(queue, command);
    } else {
      fail();
    }
    return true;
  }
  return false;
}

void Controller::execute(unsigned queue, const SubmissionEntry& command) {
  ++(queue == 0 ? counters_.admin_commands : counters_.io_commands);
  if (queue == 0) {
    // Without an outcome: an asynchronous event request.
    if (auto ended = admin_.execute(command)) end(0, command, std::move(*ended));
    return;
  }
  end(queue, command, io_.execute(command));
}

void Controller::end(unsigned queue, const SubmissionEntry& command, Ended ended) {
  const bool late = faults_.completions_held || faults_.completion_delay.count() != 0;
  if (ended.done() && !late) return complete(queue, command, ended.outcome);
  unsettled_.add(queue, command, std::move(ended), UnsettledCommands::Clock::now() + faults_.completion_delay);
}

void Controller::complete(unsigned queue, const SubmissionEntry& command, Outcome outcome) {
  if (outcome.status != Status::success) {
    ++counters_.failed_commands;
    logs_.add_error(static_cast<std::uint16_t>(queue), command, outcome.status, queues_.phase(queue));
  }
  if (!queues_.complete(queue, command.command_id, outcome)) fail();
}

void Controller::report_events() {
  if (!running()) return;
  while (const auto report = events_.next()) {
    if (!queues_.complete(0, report->command_id, {Status::success, report->result})) return fail();
  }
}

} // namespace smartio::sim::nvme
