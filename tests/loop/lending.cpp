// A client of a loan's socket, and the device two connections away: what stands between them in a node of each kind,
// and that every rule of lending is asked on the way.
#include "catch.hpp"
#include "lent_device.hpp"
#include "loan_socket.hpp"
#include "noting_device.hpp"
#include "user/client.hpp"
#include "user/wire.hpp"
#include "vfio_user_raw.hpp"

#include <boost/asio/local/connect_pair.hpp>
#include <filesystem>
#include <linux/pci_regs.h>
#include <sys/un.h>
#include <sys/wait.h>

using namespace smartio;
using namespace smartio::test;
using namespace smartio::vfio::user;

namespace {

constexpr std::uint64_t page = 4096;

/// A function with an MSI-X table in the second page of BAR 0, which has four that can be mapped.
class Function final : public vfio::Device {
public:
  explicit Function(std::shared_ptr<Log> log) : device(std::make_shared<NotingDevice>(std::move(log))) {
    device->config.resize(256);
    device->bar0.resize(4 * page);
    const auto put = [this](std::size_t at, unsigned value) { device->config[at] = static_cast<std::byte>(value); };
    put(PCI_VENDOR_ID, 0x34);
    put(PCI_STATUS, PCI_STATUS_CAP_LIST);
    put(PCI_CAPABILITY_LIST, 0x40);
    put(0x40, PCI_CAP_ID_MSIX);
    put(0x42, 15);        // 16 vectors
    put(0x45, page >> 8); // table
    put(0x49, page >> 8); // pending bits, behind it
    put(0x48, 0x00);
    put(0x4b, 0);
  }
  void submit(vfio::Request request, vfio::Completion done) override {
    const auto* info = std::get_if<vfio::GetRegionInfo>(&request);
    if (info == nullptr || info->index != 0) return device->submit(std::move(request), std::move(done));
    vfio::RegionInfo region{.flags = vfio::region_flag_read | vfio::region_flag_write | vfio::region_flag_mmap,
                            .size = 4 * page};
    region.areas = {{0, 4 * page}};
    region.fd = registers.duplicate().value();
    done(std::move(region));
  }
  void on_lost(std::move_only_function<void()> lost) override { device->on_lost(std::move(lost)); }

  std::shared_ptr<NotingDevice> device;
  Fd registers = make_memfd("registers", 4 * page).value();
};

/// A lender's device.
struct Lent {
  Lent(boost::asio::io_context& loop, std::shared_ptr<RegisterWindows> peers, DeviceId number) : io(loop), id(number) {
    DeviceSource source{[this](DeviceSource::Opened opened) {
                          OpenedDevice open;
                          open.device = function;
                          open.close = [](std::move_only_function<void()> closed) { closed(); };
                          open.filters_config = true;
                          opened(std::move(open));
                        },
                        "",
                        {}};
    LentDevice::open(
        io, id, std::move(source), std::move(peers),
        [this](const core::Event& event) {
          if (const auto* tell = std::get_if<core::TellClients>(&event)) device->clients_released(tell->loan);
          if (std::holds_alternative<core::LoanEnded>(event)) ++ended;
        },
        [this](auto result) { device = std::move(result).value(); });
    run_until(io, [this] { return device != nullptr; });
    log->clear();
  }

  boost::asio::io_context& io;
  DeviceId id;
  std::shared_ptr<Log> log = std::make_shared<Log>();
  std::shared_ptr<Function> function = std::make_shared<Function>(log);
  std::shared_ptr<LentDevice> device;
  Counters counters;
  int ended = 0;
};

/// A borrower's socket for it, and a client of that: a program, or a virtual machine.
struct Borrower {
  Borrower(Lent& of, std::uint64_t epoch, bool shared, bool program) : lent(of), loan{of.id, epoch} {
    std::string name = "/tmp/smartio-lending-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    folder = name;
    DeviceSource lender{[this, shared](DeviceSource::Opened then) { reach(shared, std::move(then)); }, "", {}};
    LoanSocket::Options options{loan, folder + "/loans/80000", std::move(lender), {}, {}, {}, shared};
    options.is_program = [](::pid_t) { return false; };
    socket = LoanSocket::open(lent.io, std::move(options), [this](const core::Event& event) {
      if (const auto* open = std::get_if<core::LoanOpened>(&event)) opened = open->socket.has_value();
      if (const auto* changed = std::get_if<core::UsageChanged>(&event)) usage = changed->usage;
    });
    run_until(lent.io, [this] { return opened; });
    const Fd own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    connect(own, program);
    raw.emplace(lent.io, own.duplicate().value());
    const auto reply = raw->ask(message(Command::version, version("{}")));
    REQUIRE((reply && !reply->failed()));
  }
  ~Borrower() {
    raw.reset();
    socket->abandon();
    settle(lent.io);
    std::filesystem::remove_all(folder);
  }

  /// As the local fabric does it.
  void reach(bool shared, DeviceSource::Opened then) {
    auto [ours, theirs] = connected_pair();
    lent.device->attach(loan, shared,
                        [this, server = std::make_shared<Socket>(std::move(theirs))](
                            std::shared_ptr<vfio::Device> device, std::function<void()> gone) {
                          const auto connection =
                              Connection::start(std::move(*server), std::move(device), lent.counters, std::move(gone));
                          return [connection] { connection->close(); };
                        });
    Client::start(std::move(ours), std::chrono::seconds(60), [then = std::move(then)](auto client) mutable {
      OpenedDevice open;
      open.device = client.value();
      open.close = [client = client.value()](std::move_only_function<void()> closed) {
        client->close();
        closed();
      };
      then(std::move(open));
    });
  }
  std::pair<Socket, Socket> connected_pair() const {
    Socket one(lent.io), other(lent.io);
    boost::asio::local::connect_pair(one, other);
    return {std::move(one), std::move(other)};
  }
  /// A program is this process itself; a machine is another.
  void connect(const Fd& own, bool program) const {
    ::sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (folder + "/loans/80000/cntrl").c_str(), sizeof address.sun_path - 1);
    const auto* where = reinterpret_cast<const ::sockaddr*>(&address);
    if (program) {
      REQUIRE(::connect(own.get(), where, sizeof address) == 0);
      return;
    }
    const auto child = ::fork();
    if (child == 0) ::_exit(::connect(own.get(), where, sizeof address) == 0 ? 0 : 1);
    int status = 1;
    REQUIRE((::waitpid(child, &status, 0) == child && status == 0));
  }

  /// The errno of the answer, 0 for success.
  std::uint32_t ask(const Bytes& command, std::vector<int> fds = {}) {
    const auto reply = raw->ask(command, std::move(fds));
    REQUIRE(reply);
    return reply->failed() ? reply->header.error : 0;
  }
  std::uint32_t map(std::uint64_t iova, int fd, std::uint64_t offset = 0) {
    return ask(message(Command::dma_map, test::raw(DmaMapBody{32, 3, offset, iova, page})), {fd});
  }
  std::uint32_t write(std::uint32_t region, std::uint64_t offset, const Bytes& data) {
    const AccessBody body{offset, region, static_cast<std::uint32_t>(data.size())};
    return ask(message(Command::region_write, join(test::raw(body), data)));
  }
  Bytes read(std::uint32_t region, std::uint64_t offset, std::uint32_t count) {
    const auto reply = raw->ask(message(Command::region_read, region_read(offset, region, count)));
    REQUIRE((reply && !reply->failed()));
    return {reply->payload.begin() + sizeof(AccessBody), reply->payload.end()};
  }
  /// The descriptor of BAR 0, and the one area of it that can be mapped.
  std::pair<Fd, SparseArea> registers() {
    auto reply = raw->ask(message(Command::get_region_info, test::raw(RegionInfoBody{256, 0, 0, 0, 0, 0})));
    REQUIRE((reply && !reply->failed() && reply->fds.size() == 1));
    const auto info = load<RegionInfoBody>(reply->payload).value();
    const std::span<const std::byte> cap = std::span(reply->payload).subspan(info.cap_offset);
    REQUIRE(load<SparseCap>(cap).value().areas == 1);
    return {std::move(reply->fds.front()), load<SparseArea>(cap.subspan(sizeof(SparseCap))).value()};
  }

  Lent& lent;
  core::LoanId loan;
  std::string folder;
  std::shared_ptr<LoanSocket> socket;
  std::optional<Raw> raw;
  core::Usage usage;
  bool opened = false;
};

struct Node {
  ~Node() {
    for (const auto* one : {&lent, &other}) (*one)->device->close();
    settle(io);
  }
  boost::asio::io_context io;
  std::shared_ptr<RegisterWindows> peers = std::make_shared<RegisterWindows>();
  std::shared_ptr<Lent> lent = std::make_shared<Lent>(io, peers, DeviceId{0x80000}),
                        other = std::make_shared<Lent>(io, peers, DeviceId{0x80001});
};

const Bytes word(4, std::byte{0xff});

} // namespace

TEST_CASE("a client of a loan can neither map nor write the page with the MSI-X table") {
  Node node;
  Borrower borrower(*node.lent, 1, GENERATE(false, true), GENERATE(false, true));
  const auto [fd, area] = borrower.registers();
  CHECK((area.offset == 2 * page && area.size == 2 * page)); // the longest run without it
  for (const auto offset : {page - 3, page, 2 * page - 4}) CHECK(borrower.write(0, offset, word) == EPERM);
  CHECK(node.lent->log->empty());
  CHECK(borrower.write(0, page - 4, word) == 0);
  CHECK(borrower.write(0, 2 * page, word) == 0);
  CHECK(*node.lent->log == Log{"write", "write"});
}

TEST_CASE(
    "a client of a loan writes what it may of configuration space, and sees its own bits of the command register") {
  Node node;
  Borrower borrower(*node.lent, 1, false, GENERATE(false, true));
  const auto before = node.lent->function->device->config;
  CHECK(borrower.write(vfio::config_region, 0x40, word) == 0);
  CHECK(borrower.write(vfio::config_region, PCI_VENDOR_ID, word) == 0);
  CHECK(node.lent->function->device->config == before);
  CHECK(borrower.write(vfio::config_region, PCI_COMMAND, {std::byte{7}, std::byte{}}) == 0);
  CHECK(borrower.read(vfio::config_region, PCI_COMMAND, 1) == Bytes{std::byte{7}});
  CHECK(node.lent->function->device->config[PCI_COMMAND] == std::byte{PCI_COMMAND_MASTER}); // the rest is the lender's
}

TEST_CASE("what a client of a loan asks for outside its device goes no further than its own node") {
  Node node;
  Borrower borrower(*node.lent, 1, false, GENERATE(false, true));
  const auto asked = node.lent->function->device->requests;
  const auto messages = node.lent->counters.messages;
  CHECK(borrower.write(0, 4 * page - 2, word) == EINVAL);
  CHECK(borrower.write(9, 0, word) == EINVAL);
  CHECK(borrower.ask(message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x21, vfio::msix, 64, 2}))) == EINVAL);
  CHECK(borrower.ask(message(Command::dma_map, test::raw(DmaMapBody{32, 3, 0, 0, page})),
                     {make_eventfd().value().get()}) == EINVAL);
  CHECK(borrower.map(0, make_memfd("short", page).value().get(), page) == EINVAL);
  CHECK(node.lent->function->device->requests == asked);
  CHECK(node.lent->counters.messages == messages);
}

TEST_CASE("of two clients of a shared device neither resets it, stops its DMA, or maps in the other's addresses") {
  Node node;
  Borrower one(*node.lent, 1, true, true), two(*node.lent, 2, true, true);
  const auto memory = make_memfd("memory", page).value();
  CHECK(one.ask(message(Command::reset)) == EPERM);
  CHECK(one.map(0, memory.get()) == 0);
  CHECK(two.map(0, memory.get()) == ERANGE);
  CHECK(two.map(iova_slice_size, memory.get()) == 0);
  CHECK(one.map(iova_slice_size + page, memory.get()) == ERANGE);
  CHECK(one.write(vfio::config_region, PCI_COMMAND, {std::byte{4}, std::byte{}}) == 0);
  CHECK(two.write(vfio::config_region, PCI_COMMAND, {std::byte{}, std::byte{}}) == 0);
  CHECK((node.lent->function->device->config[PCI_COMMAND] & std::byte{PCI_COMMAND_MASTER}) != std::byte{});
  CHECK(std::ranges::count(*node.lent->log, "map") == 2);
  CHECK(std::ranges::count(*node.lent->log, "reset") == 0);
}

TEST_CASE("whoever has a device alone resets it, and maps where it likes") {
  Node node;
  Borrower borrower(*node.lent, 1, false, GENERATE(false, true));
  CHECK(borrower.ask(message(Command::reset)) == 0);
  CHECK(borrower.map(iova_slice_size * 40, make_memfd("memory", page).value().get()) == 0);
  CHECK(*node.lent->log == Log{"reset", "map"});
}

TEST_CASE("when the loan of a device ends, another's client no longer reaches its registers through its own device") {
  Node node;
  Borrower target(*node.lent, 1, false, true), borrower(*node.other, 2, false, true);
  const auto [fd, area] = target.registers();
  REQUIRE(borrower.map(page, fd.get(), area.offset) == 0);
  REQUIRE(borrower.map(8 * page, make_memfd("memory", page).value().get()) == 0);
  SECTION("taken back") { node.lent->device->end(target.loan, true); }
  SECTION("its client has gone") { target.raw.reset(); }
  run_until(node.io, [&node] { return !node.lent->log->empty() && node.lent->log->back() == "reset"; });
  settle(node.io);
  CHECK(*node.other->log == Log{"map", "map", "unmap " + std::to_string(page)});
}

TEST_CASE("a window that another device has onto a device's registers survives what is no end of its loan") {
  Node node;
  Borrower target(*node.lent, 1, false, true), borrower(*node.other, 2, false, true);
  const auto [fd, area] = target.registers();
  REQUIRE(borrower.map(page, fd.get(), area.offset) == 0);
  REQUIRE(target.ask(message(Command::reset)) == 0);
  CHECK(*node.other->log == Log{"map"});
  CHECK(borrower.ask(message(Command::dma_unmap, test::raw(DmaUnmapBody{24, 0, page, page}))) == 0);
  node.lent->device->end(target.loan, true);
  run_until(node.io, [&node] { return node.lent->ended == 1; });
  CHECK(*node.other->log == Log{"map", "unmap " + std::to_string(page)}); // and not twice
}

TEST_CASE("a client's end is a whole end of its use at the lender, however many windows and interrupts it had") {
  Node node;
  Borrower borrower(*node.lent, 1, false, GENERATE(false, true));
  REQUIRE(borrower.map(page, make_memfd("memory", page).value().get()) == 0);
  REQUIRE(borrower.ask(
              message(Command::set_irqs,
                      test::raw(SetIrqsBody{20, vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, 0, 1})),
              {make_eventfd().value().get()}) == 0);
  node.lent->log->clear();
  borrower.raw.reset();
  run_until(node.io, [&node] { return !node.lent->log->empty() && node.lent->log->back() == "reset"; });
  CHECK(*node.lent->log == Log{"command 0", "interrupts off 2", "unmap all", "reset"});
}

TEST_CASE("a virtual machine's memory without a descriptor stays at its own node, and its device fails when it would "
          "need that") {
  Node node;
  Borrower machine(*node.lent, 1, false, false);
  CHECK(machine.ask(message(Command::dma_map, test::raw(DmaMapBody{32, 3, 0, 0, page}))) == 0);
  CHECK(node.lent->log->empty());
  settle(node.io);
  CHECK(machine.usage.unreachable_windows == 1);
  CHECK(machine.write(vfio::config_region, PCI_COMMAND, {std::byte{6}, std::byte{}}) == 0); // masters the bus
  settle(node.io);
  CHECK(machine.usage.problem.find("share=on") != std::string::npos);
  CHECK((node.lent->function->device->config[PCI_COMMAND] & std::byte{PCI_COMMAND_MASTER}) == std::byte{});
  CHECK(machine.read(0, 0, 4) == word);
}
