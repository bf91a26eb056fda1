// Taking functions from their drivers for vfio-pci and giving them back, so that a crash at any moment can be undone.
#pragma once

#include "drivers.hpp"
#include "journal.hpp"
#include "pci.hpp"
#include "system.hpp"

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace smartio::vfio::host {

/// Every change is in STATE_DIR/journal.json before it is made; no function is left without a driver that the journal
/// does not say. All calls block, for several seconds when drivers do not answer: use a thread of its own. Not
/// thread-safe. A function that was on vfio-pci already is not ours: it is neither recorded nor ever given back.
class Binder {
public:
  /// Asked about each function just before it is taken from its driver; an error stops that.
  using Recheck = std::function<Result<void>(const Bdf&)>;

  /// `state_dir` exists and is owned by the caller (own_directory). Errc::bad_request when it is "", and when the
  /// journal there is damaged. Changes nothing; call recover() next.
  static Result<Binder> open(Root root, const std::string& state_dir, System system = System::real());

  /// All of them, or none: after a failure those taken are given back, in reverse, and what could not be is told and
  /// stays in the journal: Errc::timed_out, a driver does not let go; recover() or give_back() completes that once it
  /// has. One that was taken before stays taken; what is left of an earlier change is undone first.
  Result<void> take(const std::vector<Bdf>& functions, const Recheck& recheck = {});
  /// Each to the driver it was found on, then with the driver_override that was there. Tries all and returns the first
  /// error; those that failed stay in the journal, and may be tried again. Errc::timed_out names who still holds the
  /// function, as far as /proc tells. A function that is gone, or another one in its place, is no error. Needs no space
  /// on the disk.
  Result<void> give_back(const std::vector<Bdf>& functions);
  /// Whatever is in the journal, complete or not; an error for each that did not go back.
  std::vector<Error> give_back_all();
  /// Undoes everything in the journal, as far as it goes. A sentence for each function it was about.
  Result<std::vector<std::string>> recover();

  bool has_taken(const Bdf& bdf) const; ///< by take(), completely

private:
  Binder(Drivers drivers, Journal journal) : drivers_(std::move(drivers)), journal_(std::move(journal)) {}
  Result<void> take_one(const Bdf& bdf, const Recheck& recheck);
  Result<void> change(const Entry& entry, const Recheck& recheck);
  bool holds(const Bdf& bdf) const;
  bool is_same(const Entry& entry) const;
  Result<std::string> restore(const Bdf& bdf);
  Result<void> put_back(const Entry& entry);
  void about_to(const Entry& entry, std::string_view step);
  Result<void> give_one(const Bdf& bdf);
  Error undo(const std::vector<Bdf>& taken, Error error);
  Drivers drivers_;
  Journal journal_;
};

/// What SMARTIO_STOP_AT may name, for tests that crash at each: every step in order.
std::span<const std::string_view> binding_steps();

} // namespace smartio::vfio::host
