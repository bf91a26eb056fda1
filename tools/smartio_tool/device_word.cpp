#include "device_word.hpp"

#include "result.hpp"
#include "text.hpp"

#include <filesystem>

namespace smartio::tool {
namespace {

bool is_part(std::string_view text, std::uint64_t limit) {
  return text.empty() || text == "*" || parse_number(text, 16, limit).has_value();
}

/// Takes the piece after the last colon off `text`: all of it where there is no colon.
std::string_view take_piece(std::string_view& text) {
  const std::size_t colon = text.rfind(':');
  const std::string_view piece = colon == std::string_view::npos ? text : text.substr(colon + 1);
  text = colon == std::string_view::npos ? std::string_view{} : text.substr(0, colon);
  return piece;
}

/// [[[domain]:][bus]:][slot][.[function]], as `lspci -s` takes it.
bool is_pci_address(std::string_view text) {
  const std::size_t dot = text.rfind('.');
  const std::string_view function = dot == std::string_view::npos ? std::string_view{} : text.substr(dot + 1);
  text = text.substr(0, dot);
  const std::string_view slot = take_piece(text);
  const std::string_view bus = take_piece(text);
  return is_part(function, 7) && is_part(slot, 0x1f) && is_part(bus, 0xff) && is_part(text, 0xffffffff);
}

} // namespace

Result<std::string> parse_device(const std::string& word) {
  constexpr std::string_view scheme = "vfio-user:";
  if (word.find_first_of(":.") == std::string::npos) return to_string(TRY(parse_device_id(word)));
  if (!word.starts_with(scheme)) {
    if (is_pci_address(word)) return word;
    return fail(Errc::bad_request, "'{}' is not a device: give an id as 'list' prints it, a BDF, or vfio-user:PATH",
                word);
  }
  const std::string path = word.substr(scheme.size());
  if (path.empty()) return fail(Errc::bad_request, "'{}' names no socket: give vfio-user:PATH", word);
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) return std::unexpected(Error{error, "working directory"});
  return std::string(scheme) + absolute.string();
}

} // namespace smartio::tool
