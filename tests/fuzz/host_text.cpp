// Any bytes as a message about devices, as lspci's filters, as words of the kernel's tables, as its answers over
// netlink. What is understood as a filter must be one that decides; a function's address survives being written and
// read.
#include "host/filter.hpp"
#include "host/mounts.hpp"
#include "host/netlink.hpp"
#include "host/uevents.hpp"
#include "sentence.hpp"

#include <cstdlib>

using namespace smartio;
using namespace smartio::vfio::host;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto event = parse_uevent(std::as_bytes(std::span(data, size))))
    require(parse_bdf(to_string(event->bdf)) == event->bdf);
  const auto half = text.find('\n');
  const auto filter = Filter::parse(text.substr(0, half), half == text.npos ? "" : text.substr(half + 1));
  const Function function{.bdf = {.bus = 6}, .vendor = 0x8086, .device = 0xf1a5, .class_code = 0x010802};
  if (test::check_result(filter) && filter->matches(function)) require(filter->matches_address(function.bdf));
  require(unescape(text).size() <= size);
  static_cast<void>(parse_device_number(text));
  std::size_t read = 0;
  for (const auto& message : messages_in(text)) {
    read += message.body.size();
    for (const auto& part : attributes_in(message.body)) require(part.body.size() < message.body.size());
  }
  require(read <= size);
  return 0;
}
