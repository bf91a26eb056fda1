// Which functions: the filters of lspci's options -d and -s, understood by libpci itself, so that lspci shows what a
// filter would take.
#pragma once

#include "pci.hpp"

#include <smartio/error.hpp>

#include <optional>
#include <string_view>

namespace smartio::vfio::host {

/// Holds for a function when each part that was given does.
class Filter {
public:
  /// `id` as for `lspci -d`: "[vendor]:[device][:class[:prog-if]]"; `slot` as for `lspci -s`:
  /// "[[[domain]:]bus]:][slot][.[function]]". "" leaves one out. Errc::bad_request when libpci does not understand it,
  /// and when both are left out: that would be every device of the host.
  static Result<Filter> parse(std::string_view id, std::string_view slot);

  bool matches(const Function& function) const noexcept;
  bool matches_address(const Bdf& bdf) const noexcept; ///< looks at the part for -s only

private:
  using Part = std::optional<std::uint32_t>; ///< nullopt: any
  Part domain_, bus_, slot_, function_, vendor_, device_, class_, prog_if_;
  std::uint32_t class_mask_ = ~0U; ///< the bits of the class that count: "01xx" leaves out eight
};

} // namespace smartio::vfio::host
