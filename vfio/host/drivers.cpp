#include "drivers.hpp"

#include "holders.hpp"
#include "result.hpp"
#include "text.hpp"

#include <thread>

namespace smartio::vfio::host {
namespace {

constexpr int bind_attempts = 5;

} // namespace

std::optional<std::string> Drivers::driver_of(const Bdf& bdf) const {
  return link_name(folder_of(root_, bdf) + "driver");
}

Result<std::optional<std::string>> Drivers::override_of(const Bdf& bdf) const {
  const auto text = system_.read(folder_of(root_, bdf) + "driver_override", system_.patience);
  if (!text && text.error().code == Errc::timed_out)
    return std::unexpected(still_held(bdf, "bound or unbound by the kernel"));
  if (!text) return std::unexpected(text.error());
  if (text->empty() || *text == "(null)") return std::nullopt;
  return *text;
}

std::optional<std::string> Drivers::identity_of(const Bdf& bdf) const {
  std::string identity;
  for (const auto* name : {"vendor", "device", "subsystem_vendor", "subsystem_device", "class"}) {
    const auto text = read_text(folder_of(root_, bdf) + name);
    if (!text) return std::nullopt;
    identity += (identity.empty() ? "" : " ") + *text;
  }
  return identity;
}

bool Drivers::present(const Bdf& bdf) const { return exists(folder_of(root_, bdf)); }

Result<void> Drivers::write(const std::string& path, const std::string& text) const {
  return system_.write(path, text, system_.patience);
}

Result<void> Drivers::load_vfio() const {
  const auto folder = root_.sys + "/bus/pci/drivers/vfio-pci";
  if (!exists(folder)) system_.load_module("vfio-pci");
  if (!exists(folder)) return fail(Errc::wrong_state, "The kernel's driver vfio-pci cannot be loaded.");
  return {};
}

Result<void> Drivers::set_override(const Bdf& bdf, const std::optional<std::string>& driver) const {
  const auto written = write(folder_of(root_, bdf) + "driver_override", driver.value_or("") + '\n');
  if (!written && written.error().code == Errc::timed_out)
    return std::unexpected(still_held(bdf, "bound or unbound by the kernel"));
  return written;
}

Error Drivers::still_held(const Bdf& bdf, const std::string& doing) const {
  std::string holders;
  if (const auto function = read_function(root_, bdf))
    for (const auto& holder : vfio_holders(root_, *function))
      holders += (holders.empty() ? "; held by " : ", ") + holder;
  return {make_error_code(Errc::timed_out),
          fmt::format("{} is still being {} after {} ms{}.", to_string(bdf), doing, system_.patience.count(), holders)};
}

Result<void> Drivers::unbind(const Bdf& bdf) const {
  const auto driver = driver_of(bdf);
  if (!driver) return {};
  const auto written = write(folder_of(root_, bdf) + "driver/unbind", to_string(bdf));
  // The link to the driver goes before the driver does, so only the end of the write says that it has let go.
  if (!written && written.error().code == Errc::timed_out)
    return std::unexpected(still_held(bdf, "unbound from " + printable(*driver)));
  if (driver_of(bdf) != driver) return {};
  if (!written) return written;
  return fail(Errc::wrong_state, "{} was not let go by {}.", to_string(bdf), printable(*driver));
}

Result<void> Drivers::bind(const Bdf& bdf, const std::string& driver) const {
  // The driver's own file says why it does not want a function; drivers_probe asks all drivers, and says nothing.
  const auto own = root_.sys + "/bus/pci/drivers/" + driver + "/bind";
  const auto path = exists(own) ? own : root_.sys + "/bus/pci/drivers_probe";
  std::error_code reason;
  // What a driver leaves behind is released asynchronously, for up to a second; until then the next may refuse.
  for (int attempt = 0; attempt < bind_attempts; ++attempt) {
    if (attempt != 0) std::this_thread::sleep_for(system_.patience / bind_attempts);
    const auto written = write(path, to_string(bdf));
    const auto now = driver_of(bdf);
    if (now == driver) return {};
    if (now)
      return fail(Errc::wrong_state, "{} is bound to {} instead of {}.", to_string(bdf), printable(*now),
                  printable(driver));
    if (!present(bdf)) return fail(Errc::no_such_device, "{} is gone.", to_string(bdf));
    if (written) continue;
    reason = written.error().code;
    if (reason == Errc::timed_out) return std::unexpected(still_held(bdf, "bound to " + printable(driver)));
  }
  const auto context = fmt::format("{} did not bind to {}", to_string(bdf), printable(driver));
  if (!reason) return fail(Errc::wrong_state, "{}.", context);
  return std::unexpected(Error{reason, context});
}

} // namespace smartio::vfio::host
