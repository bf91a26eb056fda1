#include "filter.hpp"

#include "result.hpp"
#include "text.hpp"

#include <string>

extern "C" {
#include <pci/pci.h>
}

namespace smartio::vfio::host {
namespace {

/// libpci writes into the text it parses.
Result<void> parse_part(char* (*parse)(pci_filter*, char*), pci_filter& filter, char option, std::string_view text) {
  if (text.empty()) return {}; // some versions of libpci take it for "any", some refuse it
  if (text.find('\0') != text.npos) return fail(Errc::bad_request, "Filter -{} holds a zero byte.", option);
  std::string copy(text);
  const char* complaint = parse(&filter, copy.data());
  if (complaint == nullptr) return {};
  // The guide that this syntax comes from has "-s ::0108" where it means -d.
  const char* hint = option == 's' && text.starts_with("::") ? " A class is given with -d." : "";
  return fail(Errc::bad_request, "Filter -{} {}: {}.{}", option, printable(std::string(text)), complaint, hint);
}

std::optional<std::uint32_t> part(int value) {
  if (value < 0) return std::nullopt;
  return static_cast<std::uint32_t>(value);
}

bool holds(const std::optional<std::uint32_t>& wanted, std::uint32_t is) { return !wanted || *wanted == is; }

} // namespace

Result<Filter> Filter::parse(std::string_view id, std::string_view slot) {
  if (id.empty() && slot.empty()) return fail(Errc::bad_request, "A filter needs -d or -s.");
  // The structure grew over the versions of libpci; its own function fills the one of the header compiled with.
  pci_filter filter{};
  pci_filter_init(nullptr, &filter);
  TRY(parse_part(pci_filter_parse_id, filter, 'd', id));
  TRY(parse_part(pci_filter_parse_slot, filter, 's', slot));
  Filter result;
  result.domain_ = part(filter.domain), result.bus_ = part(filter.bus);
  result.slot_ = part(filter.slot), result.function_ = part(filter.func);
  result.vendor_ = part(filter.vendor), result.device_ = part(filter.device);
  result.class_ = part(filter.device_class), result.prog_if_ = part(filter.prog_if);
  result.class_mask_ = filter.device_class_mask;
  return result;
}

bool Filter::matches_address(const Bdf& bdf) const noexcept {
  return holds(domain_, bdf.domain) && holds(bus_, bdf.bus) && holds(slot_, bdf.device) &&
         holds(function_, bdf.function);
}

bool Filter::matches(const Function& function) const noexcept {
  const bool of_class = !class_ || ((*class_ ^ (function.class_code >> 8)) & class_mask_) == 0;
  return matches_address(function.bdf) && holds(vendor_, function.vendor) && holds(device_, function.device) &&
         of_class && holds(prog_if_, function.class_code & 0xff);
}

} // namespace smartio::vfio::host
