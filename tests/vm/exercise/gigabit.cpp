// Intel's gigabit network functions: 82574 (e1000e; also 82540, e1000), 82576 (igb) and its virtual functions (igbvf).
// A frame is sent with the PHY in loopback: the device reads it from memory, and writes it to memory again. A virtual
// function has no PHY: there only the descriptor that the device writes back is judged.
// Register numbers: Intel 82574 and 82576 datasheets, chapters "Programming Interface".
#include "result.hpp"
#include "subject.hpp"

#include <array>

namespace exercise {
namespace {

using smartio::Errc;
using smartio::fail;

constexpr std::size_t reg_ctrl = 0x0000, reg_status = 0x0008, reg_mdic = 0x0020, reg_icr = 0x00c0, reg_ics = 0x00c8,
                      reg_ims = 0x00d0, reg_ivar = 0x00e4, reg_rctl = 0x0100, reg_tctl = 0x0400, reg_mailbox = 0x0c40,
                      reg_mailbox_memory = 0x0800, reg_eics = 0x1520, reg_eims = 0x1524, reg_eiac = 0x152c,
                      reg_gpie = 0x1514, reg_receive = 0x2800, reg_transmit = 0x3800, reg_ral = 0x5400,
                      reg_rah = 0x5404;
// From the start of a ring's registers.
constexpr std::size_t ring_low = 0x00, ring_high = 0x04, ring_bytes = 0x08, ring_srrctl = 0x0c, ring_tail = 0x18,
                      ring_control = 0x28;
constexpr std::uint32_t ctrl_set_link_up = 1U << 6, ctrl_reset = 1U << 26, status_link_up = 2;
constexpr std::uint32_t cause_link = 1U << 2, cause_receive_queue_0 = 1U << 20;
constexpr std::uint32_t all_causes_to_vector_0 = 0x88888; // IVAR: five valid entries of vector 0
constexpr std::uint32_t gpie_msix = 1U << 31 | 1U << 30 | 1U << 4 | 1U;
constexpr std::uint32_t tctl_enable = 1U << 1 | 1U << 3;
// RCTL: enable, all addresses, MAC loopback, broadcasts, checksum stripped.
constexpr std::uint32_t rctl_loopback = 1U << 1 | 1U << 3 | 1U << 4 | 1U << 6 | 1U << 15 | 1U << 26;
constexpr std::uint32_t queue_enable = 1U << 25, srrctl_one_buffer = 1U << 25 | 2; // of 2 KiB
constexpr std::uint32_t bmcr_loopback = 0x4140, bmcr_negotiate = 0x1340;           // IEEE 802.3, 22.2.4.1
// Mailbox of a virtual function (82576, 7.8.2.10.1): the physical function's driver answers.
constexpr std::uint32_t mailbox_request = 1U << 0, mailbox_acknowledge = 1U << 1, mailbox_taken = 1U << 2,
                        mailbox_answered = 1U << 4, message_reset = 1;

constexpr unsigned entries = 8;
constexpr std::size_t descriptor_bytes = 16, frame_bytes = 256, header_bytes = 14;
// Places in the buffer.
constexpr std::size_t transmit_ring = 0, receive_ring = 0x400, transmit_frame = 0x1000, receive_frame = 0x2000;

class Function final : public Subject {
public:
  Function(const smartio::Device& device, smartio::BarMapping bar, Gigabit model)
      : device_(device), registers_(std::move(bar)), model_(model) {}

  Result<void> start() override {
    TRY(registers_.set(reg_ctrl, ctrl_reset));
    buffer_ = TRY(Buffer::make(device_, 0x4000));
    if (model_ == Gigabit::igbvf)
      TRY(greet_physical_function());
    else
      TRY(bring_link_up());
    TRY(set_up_rings());
    return set_up_interrupts();
  }

  Result<void> check_reset() override {
    if (model_ != Gigabit::igb) return {}; // the others have no function level reset, or share their registers
    const auto control = TRY(registers_.get(reg_tctl));
    if ((control & tctl_enable & 2) == 0) return {};
    return fail(Errc::bad_request, "TCTL is {:#x} after a reset", control);
  }

  Result<bool> device_reads_memory(std::uint32_t seed) override {
    make_frame(seed);
    if (model_ == Gigabit::igbvf) { // judged by the descriptor
      TRY(send_frame());
      return true;
    }
    TRY(offer_receive_buffer());
    for (int tries = 3; (receive_status() & 1) == 0; --tries) { // networks may lose frames, and some models do
      if (tries == 0) return fail(Errc::timed_out, "No frame comes back");
      TRY(send_frame());
      const auto received = [this]() -> Result<bool> { return (receive_status() & 1) != 0; };
      [[maybe_unused]] const bool in_time =
          await(received, "the frame comes back", std::chrono::seconds{2}).has_value();
    }
    TRY(check_pattern(buffer_->bytes(receive_frame + header_bytes, frame_bytes - header_bytes), seed,
                      "the frame that came back"));
    return true;
  }
  Result<bool> device_writes_memory(std::uint32_t seed) override { return device_reads_memory(seed); }

  Result<void> raise_interrupt() override {
    return model_ == Gigabit::e1000e ? registers_.set(reg_ics, cause_link | cause_receive_queue_0)
                                     : registers_.set(reg_eics, 1);
  }
  Result<void> acknowledge_interrupt() override {
    if (model_ != Gigabit::e1000e) return {}; // cleared by itself (EIAC)
    const auto causes = TRY(registers_.get(reg_icr));
    return registers_.set(reg_icr, causes);
  }

private:
  bool advanced() const { return model_ != Gigabit::e1000e; } // layout of descriptors

  Result<void> bring_link_up() {
    TRY(registers_.await(reg_ctrl, ctrl_reset, 0, "the device has reset itself"));
    TRY(registers_.set(reg_ctrl, ctrl_set_link_up));
    if ((TRY(registers_.get(reg_rah)) >> 31) == 0 || TRY(registers_.get(reg_ral)) == 0)
      return fail(Errc::bad_request, "The device has not read its address from its EEPROM");
    if ((TRY(registers_.get(reg_status)) & status_link_up) == 0) TRY(write_phy(bmcr_negotiate));
    TRY(registers_.await(reg_status, status_link_up, status_link_up, "the link is up"));
    return write_phy(bmcr_loopback);
  }

  // PHY 1, register 0 (BMCR), operation write; bit 28 says that it is done.
  Result<void> write_phy(std::uint32_t value) {
    TRY(registers_.set(reg_mdic, value | 1U << 21 | 1U << 26));
    return registers_.await(reg_mdic, 1U << 28, 1U << 28, "the PHY takes a register");
  }

  // Asks for a reset. It is done even where the answer is a refusal: of an address, when none was chosen.
  Result<void> greet_physical_function() {
    const auto taken = [this]() -> Result<bool> {
      TRY(registers_.set(reg_mailbox, mailbox_taken));
      return (TRY(registers_.get(reg_mailbox)) & mailbox_taken) != 0;
    };
    TRY(await(taken, "the mailbox is free"));
    TRY(registers_.set(reg_mailbox_memory, message_reset));
    TRY(registers_.set(reg_mailbox, mailbox_request));
    const auto answered = [this]() -> Result<bool> {
      answer_ |= TRY(registers_.get(reg_mailbox)); // some bits clear when read
      return (answer_ & mailbox_answered) != 0;
    };
    TRY(await(answered, "the physical function's driver answers"));
    answer_ = 0;
    const auto message = TRY(registers_.get(reg_mailbox_memory));
    TRY(registers_.set(reg_mailbox, mailbox_acknowledge));
    if ((message & 0xffff) == message_reset && message >> 30 != 0) return {};
    return fail(Errc::bad_request, "The physical function's driver answers {:#x} to a reset", message);
  }

  Result<void> set_up_rings() {
    next_ = next_receive_ = 0;
    TRY(set_up_ring(reg_transmit, transmit_ring));
    if (model_ == Gigabit::igbvf) return registers_.set(reg_transmit + ring_control, queue_enable);
    TRY(set_up_ring(reg_receive, receive_ring));
    if (advanced()) {
      TRY(registers_.set(reg_receive + ring_srrctl, srrctl_one_buffer));
      TRY(registers_.set(reg_receive + ring_control, queue_enable));
      TRY(registers_.set(reg_transmit + ring_control, queue_enable));
    }
    TRY(registers_.set(reg_rctl, rctl_loopback));
    return registers_.set(reg_tctl, tctl_enable);
  }

  Result<void> set_up_ring(std::size_t reg, std::size_t place) {
    const std::uint64_t iova = buffer_->iova(place);
    TRY(registers_.set(reg + ring_low, static_cast<std::uint32_t>(iova)));
    TRY(registers_.set(reg + ring_high, static_cast<std::uint32_t>(iova >> 32)));
    TRY(registers_.set(reg + ring_bytes, entries * descriptor_bytes));
    return registers_.set(reg + ring_tail, 0);
  }

  Result<void> set_up_interrupts() {
    switch (model_) {
    case Gigabit::e1000e:
      TRY(registers_.set(reg_ivar, all_causes_to_vector_0)); // unused without MSI-X
      return registers_.set(reg_ims, cause_link | cause_receive_queue_0);
    case Gigabit::igb: TRY(registers_.set(reg_gpie, gpie_msix)); break;
    case Gigabit::igbvf: break; // the physical function's driver has seen to it
    }
    TRY(registers_.set(reg_eiac, 1));
    return registers_.set(reg_eims, 1);
  }

  // To everybody, from nowhere, of the type for local experiments.
  void make_frame(std::uint32_t seed) {
    const auto frame = buffer_->bytes(transmit_frame, frame_bytes);
    std::array<std::uint8_t, header_bytes> header{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};
    std::memcpy(frame.data(), header.data(), header.size());
    fill(frame.subspan(header_bytes), seed);
  }

  Result<void> offer_receive_buffer() {
    fill(buffer_->bytes(receive_frame, frame_bytes), 0);
    offered_ = receive_ring + next_receive_ * descriptor_bytes;
    buffer_->at<std::uint64_t>(offered_) = buffer_->iova(receive_frame);
    buffer_->at<std::uint64_t>(offered_ + 8) = 0;
    next_receive_ = (next_receive_ + 1) % entries;
    return registers_.set(reg_receive + ring_tail, next_receive_);
  }
  // Advanced descriptors: 82576, 7.1.5.2; legacy ones: 82574, 7.1.4. Bit 0: done.
  std::uint32_t receive_status() const { return buffer_->at<std::uint32_t>(offered_ + (advanced() ? 8 : 12)); }

  // Advanced: 82576, 7.2.2.3: extended, data, report status, checksum inserted, end of packet. Legacy: 82574, 7.2.10.1.
  Result<void> send_frame() {
    const std::size_t place = transmit_ring + next_ * descriptor_bytes;
    buffer_->at<std::uint64_t>(place) = buffer_->iova(transmit_frame);
    buffer_->at<std::uint32_t>(place + 8) =
        frame_bytes | 1U << 24 | 1U << 25 | 1U << 27 | (advanced() ? 1U << 29 | 3U << 20 : 0);
    buffer_->at<std::uint32_t>(place + 12) = advanced() ? std::uint32_t{frame_bytes} << 14 : 0;
    next_ = (next_ + 1) % entries;
    TRY(registers_.set(reg_transmit + ring_tail, next_));
    const auto done = [this, place]() -> Result<bool> { return (buffer_->at<std::uint32_t>(place + 12) & 1) != 0; };
    return await(done, "the device says in memory that the frame was sent");
  }

  smartio::Device device_;
  Registers registers_;
  Gigabit model_;
  std::optional<Buffer> buffer_;
  unsigned next_ = 0, next_receive_ = 0; // descriptors
  std::size_t offered_ = receive_ring;   // the receive descriptor in use
  std::uint32_t answer_ = 0;
};

} // namespace

std::unique_ptr<Subject> make_gigabit(const smartio::Device& device, smartio::BarMapping bar, Gigabit model) {
  return std::make_unique<Function>(device, std::move(bar), model);
}

} // namespace exercise
