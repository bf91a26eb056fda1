#include "features.hpp"

namespace smartio::sim::nvme {

namespace {

constexpr std::uint32_t granted_queues = (io_queues - 1) | (io_queues - 1) << 16; // 0's based: completion, submission
constexpr Outcome invalid_field{Status::invalid_field};

/// Bits of dword 11 that Set Features may set, by feature; others in the range are refused.
struct Rule {
  std::uint8_t id;
  std::uint32_t bits;
};
constexpr std::array rules{
    Rule{feature::arbitration, 0xffffff07},
    Rule{feature::power_management, 0x000000e0}, // power state 0 is the only one; workload hint
    Rule{feature::error_recovery, 0x0000ffff},   // no DULBE
    Rule{feature::write_cache, 0x00000001},
    Rule{feature::interrupt_coalescing, 0x0000ffff},
    Rule{feature::write_atomicity, 0x00000001},
    Rule{feature::event_configuration, 0x0000001f}, // the health warnings; no notices
};

std::optional<std::uint32_t> settable_bits(std::uint8_t id) {
  for (const Rule& rule : rules) {
    if (rule.id == id) return rule.bits;
  }
  return std::nullopt;
}

bool is_known(std::uint8_t id) {
  return settable_bits(id) || id == feature::temperature_threshold || id == feature::queues ||
         id == feature::vector_configuration;
}

} // namespace

/// Error Recovery alone belongs to the namespaces, all of which have the same; the others go without a namespace (1.4,
/// 7.8).
std::optional<Status> Features::refuse(std::uint8_t id, std::uint32_t nsid) const {
  if (nsid == 0 || nsid == all_namespaces) return std::nullopt;
  if (nsid > namespaces_) return Status::invalid_namespace;
  if (id != feature::error_recovery) return Status::feature_not_namespace_specific;
  return std::nullopt;
}

Outcome Features::set(const SubmissionEntry& command, bool have_io_queues) {
  const auto id = static_cast<std::uint8_t>(command.cdw10);
  if (!is_known(id)) return invalid_field;
  if ((command.cdw10 & 0x80000000U) != 0) return {Status::feature_not_saveable};
  if (const auto refused = refuse(id, command.nsid)) return {*refused};
  const std::uint32_t value = command.cdw11;
  if (id == feature::temperature_threshold) return set_temperature(value);
  if (id == feature::vector_configuration) return set_vector(value);
  if (id == feature::queues) {
    if (have_io_queues) return {Status::command_sequence_error};
    if ((value & 0xffff) == 0xffff || value >> 16 == 0xffff) return invalid_field;
    return {Status::success, granted_queues};
  }
  const std::uint32_t bits = *settable_bits(id);
  if ((id == feature::power_management && (value & 0x1f) != 0) ||
      (id == feature::error_recovery && (value & 0x10000) != 0))
    return invalid_field;
  plain_[id] = value & bits;
  return {};
}

Outcome Features::get(const SubmissionEntry& command) const {
  const auto id = static_cast<std::uint8_t>(command.cdw10);
  const std::uint32_t select = command.cdw10 >> 8 & 7;
  if (!is_known(id) || select > 3) return invalid_field;
  if (const auto refused = refuse(id, command.nsid)) return {*refused};
  constexpr std::uint32_t changeable = 4, of_namespace = 2;
  if (select == 3) return {Status::success, changeable | (id == feature::error_recovery ? of_namespace : 0)};
  // Nothing is saved, so the saved value is the default.
  return select == 0 ? value_of(id, command.cdw11) : initial().value_of(id, command.cdw11);
}

Outcome Features::value_of(std::uint8_t id, std::uint32_t cdw11) const {
  if (id == feature::queues) return {Status::success, granted_queues};
  if (id == feature::vector_configuration) {
    const std::uint32_t vector = cdw11 & 0xffff;
    if (vector >= vectors_) return invalid_field;
    return {Status::success, vector | (coalescing_off_[vector] ? 0x10000U : 0)};
  }
  if (id == feature::temperature_threshold) {
    const std::uint32_t sensor = cdw11 >> 16 & 0xf, which = cdw11 >> 20 & 3;
    if (sensor != 0 || which > 1) return invalid_field;
    return {Status::success, which == 0 ? over_ : under_};
  }
  return {Status::success, plain_[id]};
}

Outcome Features::set_temperature(std::uint32_t value) {
  const std::uint32_t sensor = value >> 16 & 0xf, which = value >> 20 & 3; // TMPSEL: 0 composite, 15 all there are
  if ((sensor != 0 && sensor != 0xf) || which > 1) return invalid_field;
  (which == 0 ? over_ : under_) = static_cast<std::uint16_t>(value);
  return {};
}

Outcome Features::set_vector(std::uint32_t value) {
  const std::uint32_t vector = value & 0xffff;
  if (vector >= vectors_) return invalid_field;
  coalescing_off_[vector] = (value & 0x10000) != 0;
  return {};
}

bool Features::temperature_event() const noexcept {
  constexpr std::uint32_t temperature_bit = 0x02;
  return (plain_[feature::event_configuration] & temperature_bit) != 0 &&
         (composite_temperature >= over_ || composite_temperature <= under_);
}

} // namespace smartio::sim::nvme
