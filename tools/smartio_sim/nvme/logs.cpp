#include "logs.hpp"

#include "bytes.hpp"

#include <algorithm>

namespace smartio::sim::nvme {

void Logs::add_error(std::uint16_t queue, const SubmissionEntry& command, Status status, bool phase) {
  std::array<std::byte, 64> entry{};
  put(entry, 0, ++health.errors);
  put(entry, 8, queue);
  put(entry, 10, command.command_id);
  put(entry, 12, static_cast<std::uint16_t>(status_field(status) | (phase ? 1 : 0)));
  put(entry, 14, std::uint16_t{0xffff}); // no particular byte of the command
  if (queue != 0) put(entry, 16, static_cast<std::uint64_t>(command.cdw11) << 32 | command.cdw10);
  put(entry, 24, command.nsid);
  errors_.push_front(entry);
  if (errors_.size() > error_log_entries) errors_.pop_back();
}

std::vector<std::byte> Logs::error_page() const {
  std::vector<std::byte> page(error_log_entries * 64);
  auto to = page.begin();
  for (const auto& entry : errors_) to = std::copy(entry.begin(), entry.end(), to);
  return page;
}

std::vector<std::byte> Logs::health_page(std::uint16_t over, std::uint16_t under) const {
  // Data units are thousands of 512 bytes, rounded up.
  const auto units = [](std::uint64_t of_512) { return of_512 / 1000 + (of_512 % 1000 != 0 ? 1 : 0); };
  std::vector<std::byte> page(512);
  const bool warn = composite_temperature >= over || composite_temperature <= under;
  put(page, 0, static_cast<std::uint8_t>(warn ? 0x02 : 0)); // critical warning: temperature
  put(page, 1, composite_temperature);
  put(page, 3, std::uint8_t{100}); // available spare, %
  put(page, 4, std::uint8_t{10});  // its threshold
  put(page, 32, units(health.units_read));
  put(page, 48, units(health.units_written));
  put(page, 64, health.reads);
  put(page, 80, health.writes);
  put(page, 112, std::uint64_t{1}); // power cycles
  put(page, 176, health.errors);
  return page;
}

std::vector<std::byte> Logs::firmware_page() {
  std::vector<std::byte> page(512);
  put(page, 0, std::uint8_t{0x01}); // slot 1 is active
  put_text(page, 8, 8, firmware_revision);
  return page;
}

std::vector<std::byte> Logs::effects_page() {
  constexpr std::uint32_t supported = 1, changes_data = 2; // CSUPP, LBCC
  std::vector<std::byte> page(4096);
  for (const std::uint8_t opcode :
       {admin_opcode::delete_sq, admin_opcode::create_sq, admin_opcode::get_log_page, admin_opcode::delete_cq,
        admin_opcode::create_cq, admin_opcode::identify, admin_opcode::abort, admin_opcode::set_features,
        admin_opcode::get_features, admin_opcode::async_event})
    put(page, opcode * std::size_t{4}, supported);
  for (const std::uint8_t opcode : {io_opcode::flush, io_opcode::read, io_opcode::compare})
    put(page, 1024 + opcode * std::size_t{4}, supported);
  for (const std::uint8_t opcode : {io_opcode::write, io_opcode::write_zeroes, io_opcode::dataset_management})
    put(page, 1024 + opcode * std::size_t{4}, supported | changes_data);
  return page;
}

} // namespace smartio::sim::nvme
