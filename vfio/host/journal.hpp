// The journal of driver changes: what has to be undone, written before it is done. Private to this folder.
#pragma once

#include "bdf.hpp"

#include <smartio/error.hpp>

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace smartio::vfio::host {

/// The steps of a change, in order, each recorded just before it is made: from the first to the last `give_done`, the
/// function is not as it was found.
namespace step {
inline constexpr std::string_view take_override = "take-override", take_unbind = "take-unbind",
                                  take_probe = "take-probe", take_done = "take-done", give_override = "give-override",
                                  give_unbind = "give-unbind", give_probe = "give-probe", give_done = "give-done";
}

/// A function whose driver was changed, and how it was before.
struct Entry {
  Bdf bdf;
  std::optional<std::string> driver, driver_override; ///< nullopt: none
  std::string step{};                                 ///< what was about to be done last
  std::optional<std::string> identity{};              ///< Drivers::identity_of; nullopt: not known
};

class Journal {
public:
  /// `path` need not exist. Entries of another boot are dropped: what they would undo ended with it. Errc::bad_request
  /// if the file is not a journal.
  static Result<Journal> open(std::string path, std::string boot);

  const std::map<Bdf, Entry>& entries() const noexcept { return entries_; }
  /// On disk when it returns; after a failure the journal is as before. For tests of crashes: ends the process, at
  /// once, when that step is what the environment variable SMARTIO_STOP_AT names.
  Result<void> record(Entry entry, std::string_view step);
  /// A journal without entries is removed, which needs no space. A file that cannot be written keeps the entry: a
  /// start before the next change looks after that function again.
  void forget(const Bdf& bdf);

private:
  Journal(std::string path, std::string boot) : path_(std::move(path)), boot_(std::move(boot)) {}
  Result<void> write(std::map<Bdf, Entry> entries);
  std::string path_, boot_;
  std::map<Bdf, Entry> entries_;
};

} // namespace smartio::vfio::host
