// Frames and messages between nodes: what goes out comes in, and nothing malformed does.
#include "frame.hpp"
#include "json.hpp"
#include "message.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;

namespace {

const std::string nonce(64, 'a');
const DeviceId device{0x80002};

} // namespace

TEST_CASE("every message comes in as it went out") {
  const std::vector<Message> messages{
      Hello{1, NodeId{8}, NodeId{4}, "boot", std::string(32, 'f'), nonce},
      Hello{1, NodeId{8}, NodeId{0}, "boot", "", nonce},
      Refused{"this is node 5"},
      Devices{{DeviceEntry{device, "vfio-user:/d", "Disk", 0x8086, 0xf1a5, 0x010802, DeviceState::borrowed, NodeId{4}}},
              {device}},
      BorrowRequest{7, device, true},
      ReturnRequest{8, device, 3},
      Answer{7, 3, {}, {}},
      Answer{7, 0, Errc::busy, "in use"},
      TakenBack{device, 3, "wanted back"},
      Released{device, 3},
      Heartbeat{},
      ConfigRequest{9, device, ConfigForm::emulated},
      ConfigAnswer{9, "86801af1", {}, {}},
      ConfigAnswer{9, "", Errc::no_such_device, "gone"}};
  for (const auto& message : messages) {
    const auto decoded = decode(encode(message));
    REQUIRE(decoded.has_value());
    CHECK((*decoded == message));
  }
}

TEST_CASE("a list of devices is JSON whatever their names hold, and as any other program would write it") {
  DeviceEntry entry{device, "vfio-user:/d\\1", "", 0x8086, 0xf1a5, 0x010802, DeviceState::available, {}};
  for (const std::string name :
       {"Disk", "", "a \"b\"", "c\\d", "/", "\x7f\n\x01", "caf\u00e9", "no UTF-8: \xff\xc3", "}],[{"}) {
    entry.name = name;
    const auto text = encode(Devices{{entry, entry}, {device, DeviceId{0x80003}}});
    const auto json = Json::parse(text, nullptr, false);
    REQUIRE(json.is_object());
    CHECK(json.dump() == text);
    CHECK(json["changed"].size() == 2);
    CHECK(json["changed"][0]["name"] == Json::parse(json_text(name)));
    CHECK(decode(text).has_value());
  }
  CHECK(encode(Devices{}) == R"({"changed":[],"removed":[],"type":"devices"})");
}

TEST_CASE("a malformed message is refused") {
  for (const std::string text :
       {"", "{", "[]", "5", "{}", R"({"type":5})", R"({"type":"nonsense"})", R"({"type":"borrow"})",
        R"({"type":"borrow","number":-1,"device":"80002","shared":true})",
        R"({"type":"borrow","number":1,"device":80002,"shared":true})",
        R"({"type":"borrow","number":1,"device":"2","shared":true})",
        R"({"type":"borrow","number":1,"device":"80002","shared":1})",
        R"({"type":"hello","version":1,"node":0,"to":4,"boot_id":"","nonce":"","fabrics":[]})",
        R"({"type":"devices","changed":{},"removed":[]})", R"({"type":"devices","changed":[{}],"removed":[]})",
        R"({"type":"devices","changed":[],"removed":[5]})",
        R"({"type":"config","number":1,"device":"80002","form":"other"})",
        R"({"type":"config_answer","number":1,"hex":"zz"})", R"({"type":"config_answer","number":1})"})
    CHECK_FALSE(decode(text).has_value());
  CHECK_FALSE(decode(std::string(500000, '[')).has_value());
  CHECK_FALSE(decode(R"({"type":"refused","reason":")" + std::string(5000, 'x') + "\"}").has_value());
}

TEST_CASE("frames are cut out of a stream wherever it is split") {
  const auto bytes = encode_frame(FrameKind::json, "{}") + encode_frame(FrameKind::vfio_user, "x");
  for (std::size_t split = 0; split <= bytes.size(); ++split) {
    FrameReader reader;
    std::vector<std::string> payloads;
    for (const auto& piece : {bytes.substr(0, split), bytes.substr(split)}) {
      reader.feed(piece);
      for (auto frame = reader.next(); frame && *frame; frame = reader.next()) payloads.push_back((*frame)->payload);
    }
    CHECK(payloads == std::vector<std::string>{"{}", "x"});
    CHECK_FALSE(reader.in_frame());
  }
}

TEST_CASE("a frame that is empty, too long or of an unknown kind is refused") {
  for (const std::string& head :
       {std::string("\0\0\0\0\0", 5), std::string("\xff\xff\xff\xff\0", 5), std::string("\2\0\0\0\7", 5)}) {
    FrameReader reader;
    reader.feed(head);
    CHECK_FALSE(reader.next().has_value());
  }
}

TEST_CASE("JSON has 16 levels at most, and what stands in its texts is none") {
  const auto levels = [](std::size_t lists) {
    return parse_object("{\"a\":" + std::string(lists, '[') + std::string(lists, ']') + "}").has_value();
  };
  CHECK(levels(15));
  CHECK_FALSE(levels(16));
  const std::string brackets(17, '[');
  for (const std::string& text : {brackets, "\\\"" + brackets, "\\\\\\\"" + brackets}) {
    CAPTURE(text);
    CHECK(parse_object("{\"a\":\"" + text + "\"}").has_value());
  }
  const auto after = R"({"a":"\\","b":)" + brackets + std::string(17, ']') + "}"; // the text has ended before them
  CHECK(parse_object(after).error().context.find("deeper than 16") != std::string::npos);
}
