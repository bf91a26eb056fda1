// VERSION: what is said, what is understood, what is refused.
#include "catch.hpp"
#include "user/version.hpp"

#include <cerrno>
#include <string>
#include <string_view>

using namespace smartio::vfio::user;

namespace {

std::vector<std::byte> payload(std::string_view json, bool nul = true) {
  std::vector<std::byte> bytes(sizeof(VersionNumber)); // 0.0
  for (const char c : json) bytes.push_back(static_cast<std::byte>(c));
  if (nul) bytes.push_back(std::byte{0});
  return bytes;
}

} // namespace

TEST_CASE("what is encoded is understood again") {
  CHECK(decode_version(encode_version(own_version)) == own_version);
  const Version other{0, 0, 3, 65536};
  CHECK(decode_version(encode_version(other)) == other);
}

TEST_CASE("the longest VERSION reply fits the request of QEMU") {
  CHECK(encode_version({0, 65535, UINT32_MAX, UINT32_MAX}).size() - sizeof(VersionNumber) <= 194);
}

TEST_CASE("absent capabilities have the values of the specification") {
  const Version defaults{0, 0, 1, 1048576};
  CHECK(decode_version(std::vector<std::byte>(4)) == defaults); // SPDK
  CHECK(decode_version(payload("{}")) == defaults);
  CHECK(decode_version(payload(R"({"capabilities":{}})")) == defaults);
}

TEST_CASE("what QEMU and Cloud Hypervisor send is understood") {
  const auto qemu = decode_version(
      payload(R"({"capabilities":{"migration":{"max_bitmap_size":268435456,"pgsize":4096},"max_msg_fds":16,)"
              R"("max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096,"write_multiple":true}})"));
  CHECK(qemu == Version{0, 0, 16, 1048576});
  const auto cloud_hypervisor = decode_version(
      payload(R"({"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}})"));
  CHECK(cloud_hypervisor == Version{0, 0, 1, 1048576});
}

TEST_CASE("malformed VERSION payloads are refused") {
  const std::string_view texts[] = {
      "",
      "null",
      "[]",
      "7",
      "\"capabilities\"",
      "{",
      R"({"capabilities":{})",
      R"({"capabilities":{"max_msg_fds":1})",
      R"({"capabilities:{}})",
      R"({"capabilities":[]})",
      R"({"capabilities":1})",
      R"({"capabilities":null})",
      R"({"capabilities":{"max_msg_fds":"8"}})",
      R"({"capabilities":{"max_msg_fds":8.0}})",
      R"({"capabilities":{"max_msg_fds":-1}})",
      R"({"capabilities":{"max_msg_fds":9223372036854775808}})",
      R"({"capabilities":{"max_msg_fds":36893488147419103232}})",
      R"({"capabilities":{"max_msg_fds":[16]}})",
      R"({"capabilities":{"max_data_xfer_size":0}})",
      R"({"capabilities":{"max_data_xfer_size":-5}})",
      R"({"capabilities":{"max_data_xfer_size":"1048576"}})",
      R"({"capabilities":{"max_dma_maps":true}})",
      R"({"capabilities":{"pgsizes":0}})",
      R"({"capabilities":{"pgsizes":4097}})",
      R"({"capabilities":{"pgsizes":2048}})",
      R"({"capabilities":{"pgsizes":"4096"}})",
      R"({"capabilities":{"write_multiple":1}})",
      "{} x",
      "\xff\xfe",
  };
  for (const auto text : texts) {
    CAPTURE(text);
    CHECK(decode_version(payload(text)) == std::unexpected(EINVAL));
  }
}

TEST_CASE("VERSION text without its NUL, or with one inside, is refused") {
  CHECK(decode_version(payload("{}", false)) == std::unexpected(EINVAL));
  CHECK(decode_version(payload(std::string_view("{}\0{}", 5))) == std::unexpected(EINVAL));
  CHECK(decode_version(payload(std::string_view("{}\0", 3))) == std::unexpected(EINVAL));
}

TEST_CASE("a VERSION shorter than its number is refused") {
  for (std::size_t size = 0; size < 4; ++size)
    CHECK(decode_version(std::vector<std::byte>(size)) == std::unexpected(EINVAL));
}

TEST_CASE("deeply nested text in VERSION is survived") {
  CHECK_FALSE(decode_version(payload(std::string(500000, '['))));
  CHECK_FALSE(decode_version(payload(std::string(200000, '[') + std::string(200000, ']'))));
}
