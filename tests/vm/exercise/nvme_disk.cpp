// An NVMe controller (NVM Express 1.4): admin queue with an interrupt, identify, one I/O queue pair. The first blocks
// of namespace 1 are overwritten.
#include "buffers.hpp"
#include "queue.hpp"
#include "result.hpp"
#include "subject.hpp"

namespace exercise {
namespace {

using smartio::Errc;
using smartio::fail;

constexpr unsigned entries = 8;
constexpr std::size_t page = 4096;

class NvmeDisk final : public Subject {
public:
  NvmeDisk(const smartio::Device& device, smartio::BarMapping bar) : device_(device), registers_(std::move(bar)) {}

  Result<void> start() override {
    const auto version = TRY(registers_.get(nvme::reg_vs));
    if (version == 0 || version == UINT32_MAX) return fail(Errc::bad_request, "nvme: version {:#x}", version);
    TRY(registers_.set(nvme::reg_cc, 0));
    TRY(registers_.await(nvme::reg_csts, nvme::csts_ready, 0, "the controller is disabled"));
    io_.reset();
    const std::uint64_t capabilities = TRY(registers_.get(nvme::reg_cap + 4));
    stride_ = nvme::cap_dstrd(capabilities << 32);
    admin_ = TRY(nvme::Queue::make(device_, registers_.bar(), 0, entries, stride_));
    buffers_ = TRY(nvme::Buffers::make(device_, 2, page));
    TRY(registers_.set(nvme::reg_aqa, (entries - 1) << 16 | (entries - 1)));
    TRY(set_address(nvme::reg_asq, admin_->submission_iova()));
    TRY(set_address(nvme::reg_acq, admin_->completion_iova()));
    TRY(registers_.set(nvme::reg_cc, nvme::cc_entry_sizes | nvme::cc_enable));
    TRY(registers_.await(nvme::reg_csts, nvme::csts_ready, nvme::csts_ready, "the controller is ready"));
    return make_io_queue();
  }

  Result<void> check_reset() override {
    const auto configuration = TRY(registers_.get(nvme::reg_cc));
    if ((configuration & nvme::cc_enable) == 0) return {};
    return fail(Errc::bad_request, "nvme: CC is {:#x} after a reset", configuration);
  }

  // Identify Controller (5.15.2.2): bytes 0-1 are the PCI vendor id; the rest of the page is overwritten too.
  Result<bool> device_writes_memory(std::uint32_t seed) override {
    const auto data = buffers_->data(0).first(page);
    fill(data.first(page - 1024), ~seed);
    fill(data.last(1024), seed);
    TRY(identify());
    const auto vendor = TRY(device_.read_config(0, 2));
    if (std::memcmp(data.data(), &vendor, 2) != 0)
      return fail(Errc::bad_request, "nvme: no vendor id where the controller says it wrote its identity");
    if (check_pattern(data.last(1024), seed, {}))
      return fail(Errc::bad_request, "nvme: only half of a page was written");
    return true;
  }

  // Written to the disk from one buffer, read back into another.
  Result<bool> device_reads_memory(std::uint32_t seed) override {
    fill(buffers_->data(0).first(page), seed);
    fill(buffers_->data(1).first(page), ~seed);
    TRY(move(nvme::io_write, 0));
    TRY(move(nvme::io_read, 1));
    TRY(check_pattern(buffers_->data(1).first(page), seed, "blocks written and read back"));
    return true;
  }

  Result<void> raise_interrupt() override { return identify(); }

private:
  Result<void> set_address(std::size_t reg, std::uint64_t value) {
    TRY(registers_.set(reg, static_cast<std::uint32_t>(value)));
    return registers_.set(reg + 4, static_cast<std::uint32_t>(value >> 32));
  }

  Result<void> perform(nvme::Queue& queue, const nvme::Command& command, const std::string& what) {
    std::optional<nvme::Completion> completion;
    TRY(queue.submit(command));
    const auto completed = [&queue, &completion]() -> Result<bool> {
      completion = TRY(queue.poll());
      return completion.has_value();
    };
    TRY(await(completed, what));
    if (nvme::succeeded(completion->status)) return {};
    return fail(Errc::bad_request, "{}: {}", what, nvme::status_text(completion->status));
  }

  Result<void> make_io_queue() {
    auto queue = TRY(nvme::Queue::make(device_, registers_.bar(), 1, entries, stride_));
    constexpr std::uint32_t size_and_id = (entries - 1) << 16 | 1;
    TRY(perform(*admin_,
                {.opcode = nvme::admin_create_cq, .prp1 = queue.completion_iova(), .cdw10 = size_and_id, .cdw11 = 1},
                "create the completion queue"));
    TRY(perform(
        *admin_,
        {.opcode = nvme::admin_create_sq, .prp1 = queue.submission_iova(), .cdw10 = size_and_id, .cdw11 = 1U << 16 | 1},
        "create the submission queue"));
    io_ = std::move(queue);
    return {};
  }

  Result<void> identify() {
    nvme::Command command{.opcode = nvme::admin_identify, .cdw10 = nvme::identify_controller};
    buffers_->describe(command, 0, page);
    return perform(*admin_, command, "identify the controller");
  }

  // The disks of the tests have blocks of 512 bytes.
  Result<void> move(std::uint8_t opcode, unsigned buffer) {
    nvme::Command command{.opcode = opcode, .namespace_id = 1, .cdw12 = page / 512 - 1};
    buffers_->describe(command, buffer, page);
    return perform(*io_, command, opcode == nvme::io_write ? "write blocks" : "read blocks");
  }

  smartio::Device device_;
  Registers registers_;
  unsigned stride_ = 0;
  std::optional<nvme::Queue> admin_, io_;
  std::optional<nvme::Buffers> buffers_;
};

} // namespace

std::unique_ptr<Subject> make_nvme(const smartio::Device& device, smartio::BarMapping bar) {
  return std::make_unique<NvmeDisk>(device, std::move(bar));
}

} // namespace exercise
