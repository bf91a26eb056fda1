// The DMA engine of QEMU's teaching device (docs/specs/edu.rst), between a buffer of its own and addresses that its
// IOMMU translates. A transfer takes 100 ms.
#pragma once

#include "access.hpp"
#include "result.hpp"

#include <linux/pci_regs.h>

namespace exercise {

class EduDma {
public:
  static constexpr std::size_t size = 4096; ///< bytes of a transfer

  static Result<EduDma> make(const smartio::Device& device) {
    const auto command = TRY(device.read_config(PCI_COMMAND, 2));
    TRY(device.write_config(PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER));
    return EduDma(Registers(TRY(device.map_bar(0))));
  }
  Result<void> read(std::uint64_t iova) const { ///< into its buffer
    TRY(begin(iova, own_buffer, 0));
    return done();
  }
  Result<void> write(std::uint64_t iova) const { ///< from its buffer
    TRY(begin_write(iova));
    return done();
  }
  Result<void> begin_write(std::uint64_t iova) const { return begin(own_buffer, iova, to_memory); }

private:
  static constexpr std::size_t reg_source = 0x80, reg_target = 0x88, reg_count = 0x90, reg_command = 0x98;
  static constexpr std::uint32_t start = 1, to_memory = 2;
  static constexpr std::uint64_t own_buffer = 0x40000;

  explicit EduDma(Registers registers) : registers_(std::move(registers)) {}
  Result<void> begin(std::uint64_t source, std::uint64_t target, std::uint32_t direction) const {
    TRY(registers_.bar().write(reg_source, 8, source));
    TRY(registers_.bar().write(reg_target, 8, target));
    TRY(registers_.set(reg_count, size));
    return registers_.set(reg_command, start | direction);
  }
  Result<void> done() const { return registers_.await(reg_command, start, 0, "edu moves data"); }

  Registers registers_;
};

} // namespace exercise
