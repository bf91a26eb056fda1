// Any bytes as a vfio-user command, as the reply to a command, as VERSION. What is understood as a command must survive
// being encoded and understood again.
#include "fd.hpp"
#include "user/codec.hpp"
#include "user/version.hpp"

#include <cstdlib>
#include <fcntl.h>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::vfio::user;

namespace {

using Bytes = std::span<const std::byte>;

void require(bool holds) {
  if (!holds) std::abort();
}

std::vector<Fd> descriptors(std::size_t count) {
  std::vector<Fd> fds;
  while (fds.size() < count) fds.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  return fds;
}

std::vector<std::byte> whole(const Payload& payload) {
  std::vector<std::byte> bytes(payload.body.bytes().begin(), payload.body.bytes().end());
  bytes.insert(bytes.end(), payload.tail.begin(), payload.tail.end());
  return bytes;
}

void as_command(Command command, Bytes payload, std::size_t fds) {
  const auto request = decode_request(command, payload, descriptors(fds));
  if (!request) return require(request.error() > 0);
  require(command_of(*request) == command);
  const auto once = encode_request(*request);
  require(once.fds.size() <= fds);
  const auto again = decode_request(command, whole(once), descriptors(once.fds.size()));
  require(again.has_value());
  require(whole(encode_request(*again)) == whole(once));
}

void as_reply(Command command, Bytes sent, Bytes payload, std::size_t fds) {
  const auto answer = decode_answer(command, sent, payload, descriptors(fds));
  if (!answer) return;
  wanted_argsz(sent, payload);
  if (const auto* region = std::get_if<RegionInfo>(&*answer)) {
    require(region->areas.empty() == !region->fd);
    for (const auto& area : region->areas)
      require(area.size != 0 && area.size <= region->size && area.offset <= region->size - area.size);
  }
  const auto encoded = encode_answer(command, sent, *answer);
  require(encoded || encoded.error() == EIO);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  if (size < 2) return 0;
  const auto command = static_cast<Command>(data[0] % 20);
  const std::size_t fds = data[1] % (max_fds + 1);
  const auto rest = bytes.subspan(2);
  as_command(command, rest, fds);
  const auto sent = rest.first(std::min(rest.size(), echo_size));
  as_reply(command, sent, rest.subspan(sent.size()), fds);
  if (const auto version = decode_version(rest)) require(decode_version(encode_version(*version)) == *version);
  static_cast<void>(decode_dma(rest, fds % 2 == 0));
  return 0;
}
