// One function of a PCI device, opened through the kernel's VFIO: carries out requests, and blocks. Everything here
// runs on the device's worker thread (device.hpp).
#pragma once

#include "group.hpp"
#include "interrupts.hpp"
#include "registers.hpp"

namespace smartio::vfio::kernel {

class Function {
public:
  struct Options {
    Bdf bdf;
    Interface interface = Interface::automatic;
    std::optional<VfToken> token;
    int request_event, error_event; ///< borrowed: signalled when the kernel wants the device back, and on an error
  };
  /// Opens the function into its group's domain, where it has no window: bus mastering is off, and it was reset if it
  /// can be. A failure leaves nothing open.
  static Result<std::unique_ptr<Function>> open(std::shared_ptr<System> system, const Options& options,
                                                const Progress& progress);

  /// Errors have an errno (system_category) for the reply, and a sentence for the log.
  Result<Answer> carry_out(const Request& request, const Progress& progress);

  Interface interface() const { return joined_.member.interface(); }
  unsigned group() const { return group_; }
  const std::vector<IovaRange>& ranges() const { return joined_.member.ranges(); }

  ~Function(); ///< bus mastering and interrupts off, windows unmapped, the device closed before its group

private:
  Function(std::shared_ptr<System> system, unsigned group, Member::Joined joined, Info info, Registers registers);
  Result<void> prepare(const Options& options);
  Result<void> reset();
  Result<void> map(const DmaMap& window, const Progress& progress);
  Result<Unmapped> unmap(const DmaUnmap& range, const Progress& progress);
  void cut_off(Error& why);

  std::shared_ptr<System> system_;
  unsigned group_;
  Info info_;
  Member::Joined joined_;
  Registers registers_;
  Interrupts interrupts_;
};

} // namespace smartio::vfio::kernel
