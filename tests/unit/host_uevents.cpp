// What the kernel says of PCI functions, and what others may try to say.
#include "host/uevents.hpp"

#include "catch.hpp"
#include "checks.hpp"
#include "skipped.hpp"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <linux/netlink.h>
#include <string>
#include <sys/socket.h>
#include <vector>

using namespace smartio;
using namespace smartio::vfio::host;
using namespace std::string_literals;

namespace {

std::optional<Uevent> parse(const std::string& text) { return parse_uevent(std::as_bytes(std::span(text))); }

const std::string start = "add@/devices/pci0000:00/0000:06:00.0\0"s, rest = "PCI_SLOT_NAME=0000:06:00.0\0SEQNUM=42\0"s;

std::string message(const std::string& action, const std::string& subsystem = "pci") {
  return start + "ACTION=" + action + "\0DEVPATH=/devices/x\0SUBSYSTEM="s + subsystem + '\0' + rest;
}

} // namespace

TEST_CASE("functions that appear, vanish and change their driver are announced") {
  const Bdf bdf{.bus = 6};
  CHECK(parse(message("add")) == Uevent{Uevent::Kind::appeared, bdf});
  CHECK(parse(message("remove")) == Uevent{Uevent::Kind::vanished, bdf});
  CHECK(parse(message("bind")) == Uevent{Uevent::Kind::bound, bdf});
  CHECK(parse(message("unbind")) == Uevent{Uevent::Kind::unbound, bdf});
}

TEST_CASE("an NVMe controller that has said who it is is announced by its function") {
  const auto told = [](const std::string& path, const std::string& subsystem, const std::string& event) {
    return parse("change@" + path + "\0ACTION=change\0DEVPATH="s + path + "\0SUBSYSTEM="s + subsystem +
                 "\0NVME_EVENT="s + event + '\0');
  };
  const std::string path = "/devices/pci0000:00/0000:00:10.0/0000:06:00.0/nvme/nvme0";
  CHECK(told(path, "nvme", "connected") == Uevent{Uevent::Kind::identified, Bdf{.bus = 6}});
  CHECK(!told(path, "nvme", "rediscover"));
  CHECK(!told(path, "block", "connected"));
  CHECK(!told("/devices/virtual/nvme-fabrics/ctl/nvme0", "nvme", "connected"));
  CHECK(!told("/devices/pci0000:00/0000:06:00.9/nvme/nvme0", "nvme", "connected"));
}

TEST_CASE("what is not about a PCI function is of no interest") {
  CHECK(!parse(message("change")));
  CHECK(!parse(message("add", "block")));
  CHECK(!parse(message("add", "pci_express")));
  CHECK(!parse("libudev\0\xfe\xed\xca\xfe"s + message("add")));
}

TEST_CASE("broken messages are dropped") {
  const auto whole = message("add");
  for (std::size_t size = 0; size < whole.size(); ++size)
    if (const auto cut = parse(whole.substr(0, size))) CHECK(size >= whole.find("SEQNUM"));
  CHECK(!parse("\0\0\0\0"s));
  CHECK(!parse("@"));
  CHECK(!parse(start + "ACTION=add\0SUBSYSTEM=pci\0PCI_SLOT_NAME=0000:06:00.9\0"s));
  CHECK(!parse(start + "ACTION=add\0SUBSYSTEM=pci\0PCI_SLOT_NAME=../../06:00.0\0"s));
  CHECK(!parse(start + "ACTION=add\0SUBSYSTEM=pci\0SUBSYSTEM=usb\0"s + rest));
}

TEST_CASE("messages of anyone but the kernel are dropped, and the listener can end itself") {
  boost::asio::io_context context;
  unsigned seen = 0;
  auto uevents = Uevents::open(context.get_executor(), [&seen](const Uevent&) { ++seen; });
  if (!uevents) SKIPPED(to_string(uevents.error()));
  sockaddr_nl address{};
  socklen_t size = sizeof address;
  REQUIRE(::getsockname(uevents->fd(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  address.nl_groups = 0;
  const Fd forger(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT));
  const auto text = message("add");
  if (::sendto(forger.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    SKIPPED("only root can try this");
  REQUIRE(testing::readable(uevents->fd()));
  context.run_one();
  CHECK(seen == 0);
  CHECK(!testing::readable(uevents->fd()));
  { const Uevents ended = std::move(*uevents); }
  context.run(); // returns: nothing waits any more
}

TEST_CASE("a listener whose socket fails gets another, and says that something may have been lost") {
  boost::asio::io_context context;
  std::vector<Uevent::Kind> seen;
  auto uevents = Uevents::open(context.get_executor(), [&seen](const Uevent& event) { seen.push_back(event.kind); });
  if (!uevents) SKIPPED(to_string(uevents.error()));
  sockaddr_nl address{};
  socklen_t size = sizeof address;
  REQUIRE(::getsockname(uevents->fd(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  address.nl_groups = 0;
  Fd as_it_was(::dup(uevents->fd())); // the event loop goes on watching it
  const Fd forger(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT)),
      other = make_eventfd().value();
  const auto text = message("add");
  REQUIRE(::dup2(other.get(), uevents->fd()) >= 0); // to receive from it is an error from now on
  if (::sendto(forger.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    SKIPPED("only root can try this");
  context.run_one_for(std::chrono::seconds(5));
  as_it_was.reset();
  for (int i = 0; i < 100 && seen.empty(); ++i) context.run_for(std::chrono::milliseconds(100));
  CHECK(std::ranges::count(seen, Uevent::Kind::lost) == 1);
  CHECK(::getsockname(uevents->fd(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  { const Uevents ended = std::move(*uevents); }
  context.restart();
  context.run(); // returns: nothing waits any more
}
