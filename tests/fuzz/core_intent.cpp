// Any text as a node's state file. What is understood is the same after it was written again, and a node starts with
// it; what is not is refused with a sentence.
#include "intent.hpp"
#include "node.hpp"
#include "sentence.hpp"

#include <cstdlib>

using namespace smartio;
using namespace smartio::core;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const NodeId self{8};
  auto intent = parse_intent({reinterpret_cast<const char*>(data), size}, self);
  if (!test::check_result(intent)) return 0;
  require(parse_intent(encode(*intent, self), self) == *intent);
  Node node({.node = self, .boot_id = "here", .fabric_token = std::string(32, 'f'), .nonce = std::string(64, 'a')},
            std::move(*intent));
  for (const auto& effect : node.handle(Started{}, Time{}))
    if (const auto* save = std::get_if<Save>(&effect))
      require(parse_intent(node.state() + save->line, self).value() == parse_intent(node.state(), self).value());
  node.status_document().dump();
  return 0;
}
