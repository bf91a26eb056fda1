// many_devices FOLDER COUNT: so many devices, each behind a server of its own on FOLDER/0.sock, FOLDER/1.sock and so
// on, for tests of nodes that have many. Small devices with the identity of an NVMe controller; each client finds one
// as it is after a reset, one client at a time. Prints "ready" when all listen; SIGTERM ends it.
#include "output.hpp"
#include "result.hpp"
#include "small_device.hpp"
#include "user/server.hpp"

#include <boost/asio/signal_set.hpp>
#include <charconv>
#include <csignal>
#include <sys/resource.h>

namespace {

using namespace smartio;
using Servers = std::vector<std::unique_ptr<vfio::user::Server>>;

std::shared_ptr<vfio::Device> make_controller() {
  constexpr std::array<unsigned char, 16> header{0x36, 0x1b, 0x10, 0, 0, 0,
                                                 0x10, 0,    2,    2, 8, 1}; // QEMU's, class 010802
  auto device = std::make_shared<smartio::test::SmallDevice>();
  std::ranges::transform(header, device->config.begin(), [](unsigned char byte) { return std::byte{byte}; });
  return device;
}

Result<std::unique_ptr<vfio::user::Server>> serve(boost::asio::io_context& io, const std::string& path) {
  const auto taken = std::make_shared<bool>(false);
  auto accept = [taken](const ::ucred&) -> std::expected<std::shared_ptr<vfio::Device>, int> {
    if (std::exchange(*taken, true)) return std::unexpected(EBUSY);
    return make_controller();
  };
  return vfio::user::Server::listen(io, path, std::move(accept), [taken] { *taken = false; });
}

/// Each server has a descriptor, and each client some.
Result<void> raise_descriptor_limit() {
  ::rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return fail_errno(errno, "ask for the limit of open files");
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return fail_errno(errno, "raise the limit of open files");
  return {};
}

Result<unsigned> parse_count(std::string_view text) {
  unsigned count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error == std::errc() && end == text.data() + text.size()) return count;
  return fail(Errc::bad_request, "COUNT is a number of devices, not {}.", text);
}

Result<void> run(std::span<char*> words) {
  TRY(prepare_standard_streams());
  if (words.size() != 3) return fail(Errc::bad_request, "Usage: many_devices FOLDER COUNT");
  const unsigned count = TRY(parse_count(words[2]));
  TRY(raise_descriptor_limit());
  boost::asio::io_context io{1};
  boost::asio::signal_set signals(io, SIGTERM, SIGINT);
  signals.async_wait([&io](const boost::system::error_code&, int) { io.stop(); });
  Servers servers;
  for (unsigned i = 0; i < count; ++i) servers.push_back(TRY(serve(io, fmt::format("{}/{}.sock", words[1], i))));
  TRY(write_output("ready\n"));
  io.run();
  return {};
}

} // namespace

int main(int argc, char** argv) {
  const auto done = run({argv, static_cast<std::size_t>(argc)});
  if (!done) say("many_devices: {}\n", to_string(done.error()));
  return done ? 0 : 1;
}
