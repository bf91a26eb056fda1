// Admin commands: identifying the controller and its namespace, making the I/O queues.
#include "driver.hpp"

#include "result.hpp"

#include <cstring>

namespace nvme {
namespace {

using smartio::Errc;
using smartio::fail;
using smartio::fail_errno;
using smartio::Result;

constexpr unsigned max_io_entries = 1024;

template <class T> T field(std::span<const std::byte> page, std::size_t offset) {
  T value;
  std::memcpy(&value, page.data() + offset, sizeof value);
  return value;
}

// An ASCII field, padded with blanks (1.5); anything else becomes '?'.
std::string text_field(std::span<const std::byte> page, std::size_t offset, std::size_t size) {
  std::string text;
  for (const std::byte byte : page.subspan(offset, size)) {
    const char letter = static_cast<char>(byte);
    text += letter >= ' ' && letter <= '~' ? letter : '?';
  }
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

} // namespace

Result<Completion> Driver::admin(Command command, const std::string& what) {
  TRY(admin_->submit(command));
  const Completion completion = TRY(next(*admin_, false, patience_.command));
  if (!succeeded(completion.status))
    return fail_errno(EIO, fmt::format("{}: {}", what, status_text(completion.status)));
  return completion;
}

Result<void> Driver::identify() {
  scratch_ = TRY(Buffers::make(device_, 1, 4096));
  TRY(identify_controller());
  return identify_namespace();
}

// Identify Controller (figure 247).
Result<void> Driver::identify_controller() {
  Command command{.opcode = admin_identify, .cdw10 = nvme::identify_controller};
  scratch_->describe(command, 0, 4096);
  TRY(admin(command, "identify the controller"));
  const auto page = scratch_->data(0);
  identity_.vendor = field<std::uint16_t>(page, 0);
  identity_.serial = text_field(page, 4, 20);
  identity_.model = text_field(page, 24, 40);
  identity_.firmware = text_field(page, 64, 8);
  const auto mdts = field<std::uint8_t>(page, 77); // pages as a power of two; 0: no limit
  identity_.max_transfer = mdts == 0 || mdts > 8 ? max_buffer : page_size << mdts;
  identity_.write_cache = (field<std::uint8_t>(page, 525) & 1) != 0;
  if (field<std::uint32_t>(page, 516) < namespace_id) return fail(Errc::bad_request, "The controller has no namespace");
  return {};
}

// Identify Namespace (figure 245).
Result<void> Driver::identify_namespace() {
  Command command{.opcode = admin_identify, .namespace_id = namespace_id, .cdw10 = nvme::identify_namespace};
  scratch_->describe(command, 0, 4096);
  TRY(admin(command, "identify namespace 1"));
  const auto page = scratch_->data(0);
  identity_.blocks = field<std::uint64_t>(page, 0);
  const unsigned format_index = field<std::uint8_t>(page, 26) & 0xf;
  const auto format = field<std::uint32_t>(page, 128 + 4 * format_index);
  const unsigned metadata = format & 0xffff, shift = format >> 16 & 0xff;
  if (metadata != 0 || shift < 9 || shift > 16 || std::size_t{1} << shift > identity_.max_transfer ||
      identity_.blocks == 0 || identity_.blocks > UINT64_MAX >> shift)
    return fail(Errc::bad_request, "Namespace 1 cannot be used: {} blocks of 2^{} bytes with {} bytes of metadata",
                identity_.blocks, shift, metadata);
  identity_.block_size = std::size_t{1} << shift;
  return {};
}

// Set Features: Number of Queues, then the completion queue before the submission queue that names it (7.6.1).
Result<void> Driver::make_io_queue(bool interrupts) {
  TRY(admin({.opcode = admin_set_features, .cdw10 = feature_queues, .cdw11 = 0}, "ask for I/O queues"));
  const unsigned entries = std::min(max_io_entries, cap_mqes(capabilities_) + 1);
  identity_.queue_entries = entries;
  auto queue = TRY(Queue::make(device_, bar_, 1, entries, cap_dstrd(capabilities_)));
  std::uint32_t completion_flags = 1; // PC: physically contiguous
  if (interrupts) {
    const unsigned vector = device_.vectors() > 1 ? 1 : 0; // vector 0 is the admin queue's
    interrupt_ = TRY(device_.interrupt(vector));
    completion_flags |= vector << 16 | 2; // IV and IEN
  }
  const std::uint32_t size_and_id = (entries - 1) << 16 | 1;
  TRY(admin(
      {.opcode = admin_create_cq, .prp1 = queue.completion_iova(), .cdw10 = size_and_id, .cdw11 = completion_flags},
      "create the completion queue"));
  io_ = std::move(queue);
  TRY(admin({.opcode = admin_create_sq, .prp1 = io_->submission_iova(), .cdw10 = size_and_id, .cdw11 = 1U << 16 | 1},
            "create the submission queue"));
  return {};
}

} // namespace nvme
