// Everything a node bounds, at the bound and one beyond.
#include "core_crossroads.hpp"
#include "frame.hpp"
#include "range_allocator.hpp"

#include "catch.hpp"

#include <set>

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

namespace {

/// Decodes the message with one field replaced.
bool taken(const char* text, const char* field, Json value) {
  Json object = Json::parse(text);
  object[Json::json_pointer(field)] = std::move(value);
  return decode(object.dump()).has_value();
}

std::string letters(std::size_t count) { return std::string(count, 'x'); }

constexpr const char* hello =
    R"({"type":"hello","version":1,"node":8,"to":4,"boot_id":"b","nonce":"","fabrics":[{"kind":"local","token":"0123456789abcdef0123456789abcdef"}]})";
constexpr const char* devices = R"({"type":"devices","removed":[],"changed":[{"id":"80000","address":"a","name":"n",
    "vendor":1,"device":1,"class":1,"state":"available","borrower":0}]})";
constexpr const char* answer = R"({"type":"answer","number":1,"epoch":1,"error":{"code":"busy","message":"m"}})";
constexpr const char* config =
    R"({"type":"config_answer","number":1,"hex":"ff","error":{"code":"busy","message":"m"}})";
constexpr const char* taken_back = R"({"type":"taken_back","device":"80000","epoch":1,"reason":"r"})";
constexpr const char* refused = R"({"type":"refused","reason":"r"})";

} // namespace

TEST_CASE("a message's texts have 1024 bytes at most") {
  for (const auto& [text, field] : std::vector<std::pair<const char*, const char*>>{{hello, "/boot_id"},
                                                                                    {hello, "/fabrics/0/kind"},
                                                                                    {devices, "/changed/0/address"},
                                                                                    {devices, "/changed/0/name"},
                                                                                    {answer, "/error/message"},
                                                                                    {config, "/error/message"},
                                                                                    {taken_back, "/reason"},
                                                                                    {refused, "/reason"}}) {
    Json object = Json::parse(text);
    if (object.contains("nonce")) object["nonce"] = nonce_of(1);
    const auto whole = object.dump();
    CAPTURE(whole, field);
    CHECK(taken(whole.c_str(), field, ""));
    CHECK(taken(whole.c_str(), field, letters(1024)));
    CHECK_FALSE(taken(whole.c_str(), field, letters(1025)));
  }
}

TEST_CASE("a message's numbers stay in the range of what they count") {
  Json with_nonce = Json::parse(hello);
  with_nonce["nonce"] = nonce_of(1);
  const auto whole = with_nonce.dump();
  struct Range {
    const char *text, *field;
    std::uint64_t least, most;
  };
  for (const auto& [text, field, least, most] :
       {Range{whole.c_str(), "/node", 1, 65535}, Range{whole.c_str(), "/to", 0, 65535},
        Range{devices, "/changed/0/vendor", 0, 0xffff}, Range{devices, "/changed/0/device", 0, 0xffff},
        Range{devices, "/changed/0/class", 0, 0xffffff}, Range{devices, "/changed/0/borrower", 0, 0xffff}}) {
    CAPTURE(text, field);
    CHECK(taken(text, field, least));
    CHECK(taken(text, field, most));
    CHECK_FALSE(taken(text, field, most + 1));
    CHECK_FALSE(taken(text, field, -1));
    CHECK_FALSE(taken(text, field, 1.5));
    if (least != 0) CHECK_FALSE(taken(text, field, least - 1));
  }
  for (const char* field : {"/number", "/epoch"}) {
    CHECK(taken(answer, field, std::uint64_t{0xffffffffffffffff}));
    CHECK_FALSE(taken(answer, field, 18446744073709551616.0));
    CHECK_FALSE(taken(answer, field, -1));
  }
}

TEST_CASE("a nonce has 64 digits, a node meets another in 16 ways at most, a configuration space has 4 KiB") {
  for (const std::size_t size : {0, 63, 65}) CHECK_FALSE(taken(hello, "/nonce", std::string(size, 'a')));
  CHECK(taken(hello, "/nonce", std::string(64, 'a')));
  Json object = Json::parse(hello);
  object["nonce"] = nonce_of(1);
  object["fabrics"] = Json::array();
  for (int i = 0; i < 16; ++i) object["fabrics"].push_back({{"kind", "unknown"}});
  CHECK(decode(object.dump()).has_value());
  object["fabrics"].push_back({{"kind", "unknown"}});
  CHECK_FALSE(decode(object.dump()).has_value());
  CHECK(taken(config, "/hex", std::string(8192, 'f')));
  CHECK_FALSE(taken(config, "/hex", std::string(8193, 'f')));
  CHECK_FALSE(taken(config, "/hex", std::string(8194, 'f')));
}

TEST_CASE("what a node sends is never refused for its length, whatever is in it") {
  for (const auto size : {std::size_t{1024}, std::size_t{1025}, std::size_t{50000}})
    for (const char filler : {'x', '\xff'}) {
      const std::string text(size, filler);
      CAPTURE(size, static_cast<int>(filler));
      for (const Message& message :
           {Message{Refused{text}}, Message{TakenBack{DeviceId{0x80000}, 1, text}},
            Message{Answer{1, 0, Errc::busy, text}}, Message{ConfigAnswer{1, "", Errc::busy, text}},
            Message{Devices{{DeviceEntry{.id = DeviceId{0x80000}, .address = text, .name = text}}, {}}}})
        CHECK(decode(encode(message)).has_value());
    }
}

TEST_CASE("a borrower reads 16 configuration spaces at a time, and as many again when they are answered") {
  Crossroads node;
  std::vector<RequestId> reads;
  for (std::uint64_t number = 1; number <= 16; ++number) {
    node.receive(four, ConfigRequest{number, node.first, ConfigForm::raw});
    REQUIRE(node.find<ReadConfig>() != nullptr);
    reads.push_back(node.find<ReadConfig>()->request);
  }
  node.receive(four, ConfigRequest{17, node.first, ConfigForm::raw});
  CHECK(node.done() == "16: config answer busy");
  node.receive(five, ConfigRequest{1, node.first, ConfigForm::raw}); // another one's are its own
  CHECK(node.find<ReadConfig>() != nullptr);
  node.on(ConfigRead{reads.front(), std::string("ff")});
  CHECK(node.done() == "16: config answer ok");
  node.receive(four, ConfigRequest{18, node.first, ConfigForm::raw});
  CHECK(node.find<ReadConfig>() != nullptr);
  node.receive(four, ConfigRequest{19, node.first, ConfigForm::raw});
  CHECK(node.done() == "16: config answer busy");
}

TEST_CASE("a frame has as many bytes as its reader allows, and its length alone tells of one that has more") {
  for (const std::size_t limit : {std::size_t{16}, frame_limit}) {
    FrameReader reader(limit), other(limit);
    reader.feed(encode_frame(FrameKind::json, letters(limit - 1))); // the kind counts
    const auto frame = reader.next();
    REQUIRE((frame.has_value() && frame->has_value()));
    CHECK((*frame)->payload.size() == limit - 1);
    other.feed(encode_frame(FrameKind::json, letters(limit)).substr(0, 5));
    CHECK_FALSE(other.next().has_value());
  }
}

TEST_CASE("a long list of devices travels in messages of 128") {
  for (const std::size_t count : {0U, 1U, 127U, 128U, 129U, 256U, 257U}) {
    Intent intent;
    for (std::uint16_t i = 0; i < count; ++i) intent.devices[i] = {.address = fmt::format("vfio-user:/{}", i)};
    Bench node(NodeId{8}, intent);
    for (std::uint16_t i = 0; i < count; ++i)
      node.on(DeviceProbed{make_device_id(NodeId{8}, i), Identity{.vendor = 1, .name = "Disk"}});
    node.command("connect", {{"node", 4}, {"address", "h:1"}});
    node.on(Dialled{NodeId{4}, four, nonce_of(four)});
    node.receive(four, Crossroads::hello(NodeId{4}));
    std::set<DeviceId> told;
    const auto messages = node.sent<Devices>(four);
    for (const auto& message : messages) {
      CHECK(message.changed.size() <= devices_per_message);
      for (const auto& device : message.changed) told.insert(device.id);
    }
    CAPTURE(count);
    CHECK(messages.size() == (count + 127) / 128);
    CHECK(told.size() == count);
  }
}

TEST_CASE("a node has 65536 devices, and an index that is free again is the next one's") {
  Intent intent;
  for (unsigned i = 0; i < 65535; ++i)
    intent.devices[static_cast<std::uint16_t>(i)] = {.address = fmt::format("vfio-user:/{}", i)};
  Bench node(NodeId{8}, intent);
  node.command("add", {{"device", "vfio-user:/last"}});
  CHECK(node.done() == "probe 8ffff");
  node.command("add", {{"device", "vfio-user:/one-too-many"}});
  CHECK(node.done() == "reply no_window");
  node.on(DeviceProbed{DeviceId{0x80005}, Identity{.vendor = 1, .name = "Disk"}});
  node.command("remove", {{"device", "80005"}});
  CHECK(node.done() == "reply ok");
  node.command("add", {{"device", "vfio-user:/one-too-many"}});
  CHECK(node.done() == "probe 80005");
}

TEST_CASE("a lender may offer every device there can be") {
  Crossroads node;
  Devices some;
  for (unsigned i = 1; i < 65536; ++i) {
    some.changed.push_back(Crossroads::offer(make_device_id(NodeId{6}, static_cast<std::uint16_t>(i))));
    if (some.changed.size() != devices_per_message && i != 65535) continue;
    node.receive(six, std::exchange(some, {}));
    REQUIRE(node.effects.empty());
  }
  node.receive(six, Devices{{Crossroads::offer(DeviceId{0x6ffff})}, {}}); // and change each
  CHECK(node.effects.empty());
  node.command("config-space", {{"device", "6ffff"}});
  CHECK(node.done() == "18: config 6ffff");
}

TEST_CASE("a device is shared by as many as there are slices of its addresses, whoever they are") {
  Crossroads node;
  std::size_t granted = 0;
  while (node.lend(granted % 2 == 0 ? four : five, node.first, true) != 0) ++granted;
  CHECK(granted == iova_slices);
  node.give_back(five, {node.first, 2});
  CHECK(node.lend(four, node.first, true) == iova_slices + 1);
  CHECK(node.lend(four, node.first, true) == 0);
  CHECK(node.lend(four, node.second, true) != 0); // another device has its own
}

TEST_CASE("what a command names stays in bounds") {
  const auto outcome = [](const char* command, Json arguments) {
    Crossroads node;
    node.command(command, std::move(arguments));
    return node.done();
  };
  const auto connect = [&outcome](Json node, const std::string& address) {
    return outcome("connect", {{"node", std::move(node)}, {"address", address}});
  };
  const std::string refusal = "reply bad_request";
  CHECK(connect(65535, "h:1") == "dial 65535");
  CHECK(connect(1, "h:65535") == "dial 1");
  CHECK(connect(65536, "h:1") == refusal);
  CHECK(connect(0, "h:1") == refusal);
  CHECK(connect(9, "h:0") == refusal);
  CHECK(connect(9, "h:65536") == refusal);
  CHECK(connect(9, ":1") == refusal);
  CHECK(connect(9, letters(1022) + ":1") == "dial 9");
  CHECK(connect(9, letters(1023) + ":1") == refusal);

  const auto add = [&outcome](const std::string& address) { return outcome("add", {{"device", address}}); };
  CHECK(add("vfio-user:/" + letters(106)) == "probe 80002"); // sun_path and its NUL
  CHECK(add("vfio-user:/" + letters(107)) == refusal);
  CHECK(add("vfio-user:relative") == refusal);
  CHECK(add(std::string("vfio-user:/a\0b", 14)) == refusal);

  const auto timeout = [&outcome](const char* value) {
    return outcome("config", {{"option", "peer-timeout"}, {"value", value}});
  };
  CHECK(timeout("1000") == "reply ok");
  CHECK(timeout("60000") == "reply ok");
  CHECK(timeout("999") == refusal);
  CHECK(timeout("60001") == refusal);
  CHECK(timeout("-1") == refusal);
  CHECK(timeout("") == refusal);
}

TEST_CASE("a state file names devices and options that a node can use, or is refused") {
  const Json whole = Json::parse(R"({"schema_version":1,"node":8,"devices":[{"index":0,"address":"0000:06:00.0",
    "available":true}],"connections":[{"node":4,"address":"h:1"}],"options":{"ntb":"0000:17:00.0","iommu":"auto",
    "peer-timeout":"3000","later":"x"},"filters":[{"ids":"8086:","slot":"","available":false}],"removed":["0000:09:00.0"]})");
  const auto is_taken = [&whole](const char* field, const Json& value) {
    auto state = whole;
    state[Json::json_pointer(field)] = value;
    return parse_intent(state.dump(), NodeId{8}).has_value();
  };
  REQUIRE(is_taken("/devices/0/address", "0000:06:00.0"));
  CHECK(is_taken("/devices/0/address", "vfio-user:/d"));
  CHECK(is_taken("/options/ntb", "vfio-user:/b,0000:17:00.0"));
  CHECK(is_taken("/options/ntb", ""));
  CHECK_FALSE(is_taken("/options/ntb", "0000:17:00.0,0000:17:00.0"));
  CHECK_FALSE(is_taken("/options/ntb", "0000:0a:00.0,0000:0A:00.0"));
  for (const char* odd :
       {"", "x", "vfio-user", "vfio-user:", "vfio-user:d", "0000:06:00", "06:00.0", "a long odd address"}) {
    CAPTURE(odd);
    CHECK_FALSE(is_taken("/devices/0/address", odd));
    if (*odd != '\0') CHECK_FALSE(is_taken("/options/ntb", odd));
  }
  for (const char* odd : {"", "0", "-1", "999", "60001", "1e3", "99999999999999999999"})
    CHECK_FALSE(is_taken("/options/peer-timeout", odd));
  CHECK_FALSE(is_taken("/options/iommu", "odd"));
  for (const char* field : {"/devices/0", "/devices/0/index", "/devices/0/available", "/connections/0",
                            "/connections/0/node", "/connections/0/address", "/options/later", "/filters/0",
                            "/filters/0/ids", "/filters/0/slot", "/filters/0/available", "/removed/0", "/options",
                            "/filters", "/removed", "/connections", "/devices", "/node", "/schema_version"})
    for (const auto& odd : {Json(nullptr), Json(1.5), Json::array({1}), Json{{"a", 1}}}) {
      CAPTURE(field, odd.dump());
      const bool is_gone = odd.is_null() && field == std::string("/connections/0/address"); // as a change says it
      CHECK(is_taken(field, odd) == is_gone);
    }
}

TEST_CASE(
    "what a peer does over and over is told so often, and how often it was left out; others are told of as ever") {
  Crossroads node;
  std::vector<std::string> lines;
  const auto refused = [&](std::uint64_t times, LinkId first) {
    lines.clear();
    for (LinkId link = first; link < first + times; ++link) {
      node.on(Accepted{link, nonce_of(link)});
      node.on(LinkDown{link, "it sent nonsense"});
      for (const auto& effect : node.effects)
        if (const auto* log = std::get_if<Log>(&effect)) lines.push_back(log->text);
    }
  };
  node.now = Time{std::chrono::hours(1)};
  refused(1000, 1000);
  CHECK(lines.size() == 200);
  node.on(LinkDown{four, "cut"});
  CHECK(node.find<Log>() != nullptr);
  node.now += std::chrono::seconds(10);
  refused(1, 3000);
  CHECK(lines == std::vector<std::string>{"800 lines about unknown peers were left out",
                                          "a connection was refused: it sent nonsense"});
  node.now += std::chrono::seconds(10);
  refused(1, 4000);
  CHECK(lines.size() == 1);
}

TEST_CASE("a peer names no socket of this host, only a token, and proves itself by a nonce: hex digits, all of them") {
  Json object = Json::parse(hello);
  object["nonce"] = nonce_of(1);
  const auto whole = object.dump();
  for (const auto& [field, digits] : {std::pair{"/fabrics/0/token", std::size_t{32}}, {"/nonce", std::size_t{64}}}) {
    CAPTURE(field);
    const std::string good(digits, '7'), rest = good.substr(1);
    CHECK(taken(whole.c_str(), field, good));
    for (const auto& odd : {std::string(), rest, "7" + good, "/" + rest, "G" + rest, "A" + rest, " " + rest, "." + rest,
                            std::string(1, '\0') + rest, rest + "\n"})
      CHECK_FALSE(taken(whole.c_str(), field, odd));
  }
}

TEST_CASE("when there is no place for one more connection, the oldest that offers nothing gives up its own") {
  Crossroads node; // six and seven offer a device each; `early` has not said who it is
  constexpr LinkId idle = 300, newer = 301;
  node.accept(NodeId{9}, idle);
  node.receive(idle, Devices{{}, {make_device_id(NodeId{9}, 0)}});
  node.on(Accepted{newer, nonce_of(newer)});
  const auto given_up = [&node] {
    node.on(Crowded{});
    return node.find<Drop>() == nullptr ? LinkId{0} : node.find<Drop>()->link;
  };
  CHECK(given_up() == early);
  CHECK(given_up() == idle);
  CHECK(node.node.status_document().dump().find("\"node\":9") == std::string::npos);
  CHECK(given_up() == newer);
  CHECK(given_up() == 0); // nobody who lends, offers or borrows
  node.receive(six, Devices{{}, {node.of_six}});
  CHECK(given_up() == six);
}

TEST_CASE("a lender of a loan keeps its place, whatever it takes off its list") {
  Crossroads node;
  node.ask(node.of_six, six);
  node.receive(six, Devices{{}, {node.of_six}});
  node.receive(seven, Devices{{}, {node.of_seven}});
  for (const auto given_up : {seven, early}) { // the older first
    node.on(Crowded{});
    REQUIRE(node.find<Drop>() != nullptr);
    CHECK(node.find<Drop>()->link == given_up);
  }
  node.on(Crowded{});
  CHECK(node.find<Drop>() == nullptr);
}
