// What a borrower may write to the configuration space of a lent function: an allow-list made from the function's
// capabilities. VFIO's own virtualisation is not enough: bytes outside the capabilities it knows, and vendors'
// capabilities, it passes on to the device. Pure; whoever performs a borrower's writes asks it first. Reads are
// not restricted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace smartio::vfio {

class ConfigRules {
public:
  /// From a function's configuration space, 256 or 4096 bytes. Without a type 0 header (bridges, or a device that is
  /// gone and reads as ones) nothing may be written.
  ///
  /// Allowed: bus master enable and interrupt disable of the command register; cache line size, latency timer and
  /// interrupt line; the BARs and the expansion ROM's, which VFIO virtualises (so sizing works); maximum read request,
  /// relaxed ordering and no snoop of PCI Express device control. Everything else stays as the lender has it: memory
  /// and I/O space enable (while BARs are mapped the lender keeps them on; the borrower's bits are the caller's to
  /// keep), error reporting, payload size, function level reset (a reset is a request of its own), power states, MSI
  /// and MSI-X (SET_IRQS does that), links, SR-IOV, ARI, ATS, PRI, PASID, resizable BARs, VPD, ACS, vendors' own, and
  /// every byte outside a known capability.
  static ConfigRules parse(std::span<const std::byte> config);

  struct Write {
    std::uint64_t offset;
    std::vector<std::byte> data;
    bool operator==(const Write&) const = default;
  };
  /// What of a write of `data` at `offset` goes to the device: one write for each run of bytes that hold a permitted
  /// bit, none if there is no such byte. Bits that are not permitted keep the value they have in `current`, the
  /// function's bytes at the same place, as many as `data`; a byte without permitted bits is not written at all, since
  /// writing its value back would clear the status bits that are cleared by writing ones. Bytes outside the
  /// configuration space, or without a current value, are dropped.
  std::vector<Write> allowed(std::uint64_t offset, std::span<const std::byte> data,
                             std::span<const std::byte> current) const;

private:
  explicit ConfigRules(std::size_t size) : writable_(size) {}
  void allow(std::size_t offset, std::uint32_t bits, std::size_t bytes);
  std::vector<std::byte> writable_; ///< the permitted bits of every byte
};

} // namespace smartio::vfio
