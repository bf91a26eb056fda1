#include "binding.hpp"

#include "result.hpp"
#include "text.hpp"

#include <array>
#include <optional>
#include <ranges>

namespace smartio::vfio::host {

Result<Binder> Binder::open(Root root, const std::string& state_dir, System system) {
  if (state_dir.empty()) return fail(Errc::bad_request, "Without a state directory no driver is changed.");
  auto boot = read_text(root.proc + "/sys/kernel/random/boot_id").value_or("");
  auto journal = TRY(Journal::open(state_dir + "/journal.json", std::move(boot)));
  return Binder(Drivers(std::move(root), std::move(system)), std::move(journal));
}

bool Binder::has_taken(const Bdf& bdf) const {
  const auto entry = journal_.entries().find(bdf);
  return entry != journal_.entries().end() && entry->second.step == step::take_done;
}

Result<void> Binder::take(const std::vector<Bdf>& functions, const Recheck& recheck) {
  TRY(drivers_.load_vfio());
  std::vector<Bdf> taken;
  for (const auto& bdf : functions) {
    if (holds(bdf)) continue;
    auto result = take_one(bdf, recheck);
    if (journal_.entries().contains(bdf)) taken.push_back(bdf);
    if (!result) return std::unexpected(undo(taken, std::move(result).error()));
  }
  return {};
}

Result<void> Binder::take_one(const Bdf& bdf, const Recheck& recheck) {
  if (!drivers_.present(bdf)) return fail(Errc::no_such_device, "There is no PCI function {}.", to_string(bdf));
  // A change that is not complete, or one of what was there before.
  if (journal_.entries().contains(bdf)) TRY(give_one(bdf));
  auto driver = drivers_.driver_of(bdf);
  if (driver == vfio_driver) return {};
  auto driver_override = TRY(drivers_.override_of(bdf));
  return change({.bdf = bdf,
                 .driver = std::move(driver),
                 .driver_override = std::move(driver_override),
                 .identity = drivers_.identity_of(bdf)},
                recheck);
}

/// Taken before, and still so.
bool Binder::holds(const Bdf& bdf) const {
  return has_taken(bdf) && drivers_.driver_of(bdf) == vfio_driver && is_same(journal_.entries().at(bdf));
}

/// Whether the function that is there is the one that was: it is, unless both are known and differ.
bool Binder::is_same(const Entry& entry) const {
  const auto now = drivers_.identity_of(entry.bdf);
  return !entry.identity || !now || entry.identity == now;
}

Result<void> Binder::change(const Entry& entry, const Recheck& recheck) {
  TRY(journal_.record(entry, step::take_override));
  TRY(drivers_.set_override(entry.bdf, std::string(vfio_driver)));
  TRY(journal_.record(entry, step::take_unbind));
  if (recheck) TRY(recheck(entry.bdf));
  TRY(drivers_.unbind(entry.bdf));
  TRY(journal_.record(entry, step::take_probe));
  TRY(drivers_.bind(entry.bdf, std::string(vfio_driver)));
  return journal_.record(entry, step::take_done);
}

Error Binder::undo(const std::vector<Bdf>& taken, Error error) {
  for (const auto& bdf : std::views::reverse(taken))
    if (const auto given = give_one(bdf); !given) error.context += " And back: " + to_string(given.error());
  return error;
}

/// What it did, if anything was left to do. A function that goes meanwhile is no failure.
Result<std::string> Binder::restore(const Bdf& bdf) {
  const Entry entry = journal_.entries().at(bdf);
  const auto name = to_string(bdf);
  if (drivers_.present(bdf) && !is_same(entry)) return name + " is another device now.";
  const auto done = drivers_.present(bdf) ? put_back(entry) : Result<void>{};
  if (!drivers_.present(bdf)) return name + " is gone.";
  if (!done) return std::unexpected(done.error());
  const auto named = [](const std::optional<std::string>& it) { return printable(it.value_or("no driver")); };
  const auto driver = drivers_.driver_of(bdf);
  if (driver == entry.driver) return fmt::format("{} has {} again.", name, named(driver));
  return fmt::format("{} has {}; before it was lent it had {}.", name, named(driver), named(entry.driver));
}

/// The old driver first, with an override that lets it have the function; then the old override, whatever that was.
Result<void> Binder::put_back(const Entry& entry) {
  const auto& bdf = entry.bdf;
  const auto meanwhile = entry.driver_override ? entry.driver : std::nullopt;
  // While a driver is being unbound the kernel holds the device's lock, and this write waits for it (on some kernels
  // the read too); so after it the driver that is seen is the driver that stays.
  const auto driver_override = TRY(drivers_.override_of(bdf));
  const auto driver = drivers_.driver_of(bdf);
  const bool is_back = driver == entry.driver && driver_override == entry.driver_override;
  // Without our driver there, or none, somebody else has bound another one since, and the override is theirs.
  const bool is_ours = driver_override == vfio_driver || driver == vfio_driver || !driver;
  if (is_ours && !is_back && driver_override != meanwhile) {
    about_to(entry, step::give_override);
    TRY(drivers_.set_override(bdf, meanwhile));
  }
  if (drivers_.driver_of(bdf) == vfio_driver) {
    about_to(entry, step::give_unbind);
    TRY(drivers_.unbind(bdf));
  }
  if (!drivers_.driver_of(bdf) && entry.driver) {
    about_to(entry, step::give_probe);
    if (auto bound = drivers_.bind(bdf, *entry.driver); !bound) {
      if (!drivers_.driver_of(bdf)) bound.error().context.insert(0, "No driver is left: ");
      return bound;
    }
  }
  if (entry.driver_override != meanwhile && TRY(drivers_.override_of(bdf)) == meanwhile)
    TRY(drivers_.set_override(bdf, entry.driver_override));
  about_to(entry, step::give_done);
  return {};
}

/// What is to be undone is in the journal already, and from any step the same is to be done: nothing that goes back
/// waits for a disk that is full.
void Binder::about_to(const Entry& entry, std::string_view step) {
  [[maybe_unused]] const auto recorded = journal_.record(entry, step);
}

Result<void> Binder::give_one(const Bdf& bdf) {
  TRY(restore(bdf));
  journal_.forget(bdf);
  return {};
}

Result<void> Binder::give_back(const std::vector<Bdf>& functions) {
  std::optional<Error> first;
  for (const auto& bdf : functions) {
    if (!journal_.entries().contains(bdf)) continue;
    if (auto given = give_one(bdf); !given && !first) first = std::move(given).error();
  }
  if (first) return std::unexpected(std::move(*first));
  return {};
}

std::vector<Error> Binder::give_back_all() {
  std::vector<Error> failures;
  const auto entries = journal_.entries();
  for (const auto& [bdf, entry] : entries)
    if (auto given = give_one(bdf); !given) failures.push_back(std::move(given).error());
  return failures;
}

Result<std::vector<std::string>> Binder::recover() {
  std::vector<std::string> report;
  const auto entries = journal_.entries();
  for (const auto& [bdf, entry] : entries) {
    const auto restored = restore(bdf);
    if (restored) journal_.forget(bdf);
    report.push_back(restored ? *restored : to_string(restored.error()) + " It stays in the journal.");
  }
  return report;
}

std::span<const std::string_view> binding_steps() {
  static constexpr std::array steps{step::take_override, step::take_unbind, step::take_probe, step::take_done,
                                    step::give_override, step::give_unbind, step::give_probe, step::give_done};
  return steps;
}

} // namespace smartio::vfio::host
