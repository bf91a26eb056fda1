// The order in which a loan ends at the lender, whatever ended it. Pure: the shell performs step() and reports how it
// went.
#pragma once

#include <smartio/error.hpp>

#include <cstdint>
#include <optional>
#include <string_view>

namespace smartio::core {

class EndOfLoan {
public:
  enum class Step : std::uint8_t {
    close_epoch,    ///< no request of this loan reaches the device from here on
    bus_master_off, ///< the device starts no DMA
    interrupts_off,
    unmap_windows, ///< flushed: the device cannot reach the borrower's memory
    tell_clients,  ///< they let go of the registers; bounded by 500 ms
    withdraw_bars, ///< the borrower's connection to the device is closed
    reset,
    close_device, ///< every descriptor; the kernel or the device's server drops the rest
    open_device,  ///< for the next loan
    done,
  };

  /// `last` false: other shares of the device go on, so nothing they depend on is touched.
  /// `keep` true: the loan stays and waits for its next client, so the borrower is not told.
  EndOfLoan(bool last, bool keep) noexcept : last_(last), keep_(keep) {}

  Step step() const noexcept { return step_; }

  /// `step()` was carried out, or failed; either way the next one is due. A failure never stops the ones after it: what
  /// a step leaves behind, closing the device ends.
  void finished(std::optional<Error> failure);

  /// Once done: why the device must not be lent again, if it must not. A failed reset or a device that cannot be opened
  /// again (or closed) counts; a failure before them does not once the device was reset, closed and opened.
  const std::optional<Error>& verdict() const noexcept { return verdict_; }

private:
  bool skipped(Step step) const noexcept;
  bool last_, keep_;
  Step step_ = Step::close_epoch;
  std::optional<Error> verdict_;
};

std::string_view to_string(EndOfLoan::Step step);

} // namespace smartio::core
