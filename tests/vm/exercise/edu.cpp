// QEMU's teaching device (docs/specs/edu.rst): a register that inverts, one that computes factorials, a DMA engine with
// a buffer of its own, an interrupt raised by writing a register.
#include "result.hpp"
#include "subject.hpp"

namespace exercise {
namespace {

using smartio::Errc;
using smartio::fail;

constexpr std::size_t reg_id = 0x00, reg_liveness = 0x04, reg_factorial = 0x08, reg_status = 0x20,
                      reg_interrupt_status = 0x24, reg_raise = 0x60, reg_acknowledge = 0x64, reg_dma_source = 0x80,
                      reg_dma_target = 0x88, reg_dma_count = 0x90, reg_dma_command = 0x98;
constexpr std::uint32_t computing = 1, dma_start = 1, dma_to_memory = 2;
constexpr std::uint64_t own_buffer = 0x40000;
constexpr std::size_t own_buffer_size = 4096;
constexpr std::uint32_t interrupt_cause = 0x1234;

class Edu final : public Subject {
public:
  Edu(const smartio::Device& device, smartio::BarMapping bar) : device_(device), registers_(std::move(bar)) {}

  Result<void> start() override {
    buffer_ = TRY(Buffer::make(device_, 2 * own_buffer_size));
    const auto id = TRY(registers_.get(reg_id));
    if ((id & 0xffff) != 0x00ed) return fail(Errc::bad_request, "edu: identification {:#x}", id);
    TRY(registers_.set(reg_liveness, 0xc0ffee11));
    const auto inverted = TRY(registers_.get(reg_liveness));
    if (inverted != ~0xc0ffee11U) return fail(Errc::bad_request, "edu: liveness check gives {:#x}", inverted);
    TRY(registers_.set(reg_factorial, 10));
    TRY(registers_.await(reg_status, computing, 0, "edu computes"));
    const auto factorial = TRY(registers_.get(reg_factorial));
    if (factorial != 3628800) return fail(Errc::bad_request, "edu: 10! is {}", factorial);
    return acknowledge_interrupt();
  }

  // Memory to the device's buffer and back to other memory: neither direction can be seen alone.
  Result<bool> device_writes_memory(std::uint32_t seed) override {
    fill(buffer_->bytes(0, own_buffer_size), seed);
    TRY(move(buffer_->iova(), own_buffer, dma_start));
    TRY(move(own_buffer, buffer_->iova(own_buffer_size), dma_start | dma_to_memory));
    TRY(check_pattern(buffer_->bytes(own_buffer_size, own_buffer_size), seed, "edu wrote memory"));
    return true;
  }
  Result<bool> device_reads_memory(std::uint32_t seed) override { return device_writes_memory(seed); }

  Result<void> raise_interrupt() override { return registers_.set(reg_raise, interrupt_cause); }
  Result<void> acknowledge_interrupt() override {
    const auto causes = TRY(registers_.get(reg_interrupt_status));
    return registers_.set(reg_acknowledge, causes);
  }

private:
  Result<void> move(std::uint64_t source, std::uint64_t target, std::uint32_t command) {
    TRY(set_address(reg_dma_source, source));
    TRY(set_address(reg_dma_target, target));
    TRY(registers_.set(reg_dma_count, own_buffer_size));
    TRY(registers_.set(reg_dma_command, command));
    return registers_.await(reg_dma_command, dma_start, 0, "edu moves data");
  }
  // A write of 4 bytes clears the upper half.
  Result<void> set_address(std::size_t reg, std::uint64_t value) {
    return registers_.bar().write(reg, value >> 32 == 0 ? 4 : 8, value);
  }

  smartio::Device device_;
  Registers registers_;
  std::optional<Buffer> buffer_;
};

} // namespace

std::unique_ptr<Subject> make_edu(const smartio::Device& device, smartio::BarMapping bar) {
  return std::make_unique<Edu>(device, std::move(bar));
}

} // namespace exercise
