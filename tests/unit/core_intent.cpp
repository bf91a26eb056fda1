// The state file: a line with everything, a line for each change since, and what a crash leaves of it.
#include "core_bench.hpp"
#include "intent.hpp"

#include "catch.hpp"

#include <algorithm>

using namespace smartio;
using namespace smartio::core;

namespace {

const NodeId self{8}, four{4};

/// Each kind of change, one after the other: the text so far, and the intent.
struct Growing {
  Intent intent{};
  std::string text = encode(intent, self);
  std::vector<std::pair<std::size_t, Intent>> steps{{text.size(), intent}};

  void changed(const std::string& line) {
    text += line;
    steps.emplace_back(text.size(), intent);
  }
};

Growing one_of_each() {
  Growing state;
  auto& intent = state.intent;
  intent.devices[0] = {"0000:06:00.0", false};
  state.changed(device_line(intent, 0));
  intent.devices[7] = {"vfio-user:/d", true, true, {"1:2", {{"device", "00-01"}, {"nvme", "S/N \"1\""}}}};
  state.changed(device_line(intent, 7));
  intent.devices[0].available = true;
  state.changed(device_line(intent, 0));
  intent.connections[four] = "h:7808";
  state.changed(connection_line(intent, four));
  intent.options["iommu"] = "type1";
  state.changed(options_line(intent));
  intent.filters.insert({"8086:", "", true});
  intent.filters.insert({"", "06:", false});
  state.changed(filters_line(intent));
  intent.removed.insert("0000:07:00.0");
  state.changed(removed_line(intent));
  intent.filters.erase(intent.filters.begin());
  state.changed(filters_line(intent));
  intent.removed.clear();
  state.changed(removed_line(intent));
  intent.devices.erase(7);
  state.changed(device_line(intent, 7));
  intent.connections.clear();
  state.changed(connection_line(intent, four));
  return state;
}

} // namespace

TEST_CASE("changes behind the whole are the same as the whole written anew") {
  const auto state = one_of_each();
  const auto read = parse_intent(state.text, self);
  REQUIRE(read);
  CHECK(*read == state.intent);
  CHECK(parse_intent(encode(*read, self), self) == *read);
  std::size_t lines = 0;
  for (const char c : state.text) lines += c == '\n';
  CHECK(lines == state.steps.size());
}

TEST_CASE("what a crash cuts off, at any byte, was not changed; what came before it was") {
  const auto state = one_of_each();
  for (auto cut = state.steps.front().first; cut <= state.text.size(); ++cut) {
    const auto read = parse_intent(state.text.substr(0, cut), self);
    REQUIRE(read);
    const auto last = std::ranges::find_if(state.steps, [cut](const auto& s) { return s.first > cut; });
    CHECK(*read == std::prev(last)->second);
  }
}

TEST_CASE("a line that is damaged, and not the last, is named") {
  const auto state = one_of_each();
  const auto second = state.steps[0].first;
  for (const char* damage : {"\n", "x\n", "[]\n", "{\"devices\":{}}\n", "{\"devices\":[{\"index\":0}]}\n",
                             "{\"connections\":[{\"node\":0,\"address\":null}]}\n", "{\"options\":{\"iommu\":1}}\n",
                             "{\"removed\":[1]}\n", "{\"filters\":[{}]}\n"}) {
    CAPTURE(damage);
    auto text = state.text;
    text.insert(second, damage);
    const auto read = parse_intent(text, self);
    REQUIRE_FALSE(read);
    CHECK(read.error().context.starts_with("line 2: "));
  }
}

TEST_CASE("a state file over many lines, as it was written before, is read") {
  const auto state = one_of_each();
  const auto before = Json::parse(encode(state.intent, self)).dump(1) + "\n";
  CHECK(parse_intent(before, self) == state.intent);
}

TEST_CASE("a state file of another node, or of another version, is refused") {
  auto state = Json::parse(encode(one_of_each().intent, self));
  REQUIRE(parse_intent(state.dump(), self));
  CHECK_FALSE(parse_intent(state.dump(), four));
  for (const unsigned version : {0U, 2U}) {
    state["schema_version"] = version;
    CHECK_FALSE(parse_intent(state.dump(), self));
  }
}

TEST_CASE("what a command takes back stays taken back after a restart") {
  test::Bench node(self, {.devices = {{0, {"vfio-user:/d", true}}}, .connections = {{four, "h:4"}}});
  auto text = node.node.state();
  const auto kept = [&node, &text] {
    for (const auto& effect : node.effects)
      if (const auto* save = std::get_if<Save>(&effect)) text += save->line;
    return parse_intent(text, self).value();
  };
  REQUIRE(kept().devices.at(0).available);
  node.command("unavailable", {{"device", "80000"}});
  CHECK(kept().devices == decltype(Intent::devices){{0, {"vfio-user:/d", false}}});
  CHECK(kept().connections.contains(four));
  node.command("disconnect", {{"node", 4}});
  CHECK(kept().connections.empty());
  CHECK(kept() == parse_intent(node.node.state(), self));
}
