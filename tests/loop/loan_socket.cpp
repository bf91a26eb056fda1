// The socket of a loan: who may connect, who gets which descriptor, and what is left of it once the loan is over.
#include "loan_socket.hpp"
#include "catch.hpp"
#include "client_process.hpp"
#include "own_mounts.hpp"
#include "skipped.hpp"
#include "small_device.hpp"
#include "user/wire.hpp"
#include "vfio_user_raw.hpp"

#include <filesystem>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>

using namespace smartio;
using namespace smartio::test;
using namespace smartio::vfio::user;

namespace {

constexpr core::LoanId id{DeviceId{0x80000}, 1};
constexpr std::uint64_t page = 4096;

/// Gives this descriptor for BAR 0, as the lender does.
class LendersDevice final : public SmallDevice {
public:
  Fd registers = make_memfd("registers", 2 * page).value();
  std::move_only_function<void()> lost;

  void submit(vfio::Request request, vfio::Completion done) override {
    const auto* info = std::get_if<vfio::GetRegionInfo>(&request);
    if (info == nullptr || info->index != 0) return SmallDevice::submit(std::move(request), std::move(done));
    auto reply = carry_out(std::move(request));
    std::get<vfio::RegionInfo>(reply.value()).fd = registers.duplicate().value();
    done(std::move(reply));
  }
  void on_lost(std::move_only_function<void()> then) override { lost = std::move(then); }
};

class Folder {
public:
  Folder() {
    std::string name = "/tmp/smartio-loan-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
    REQUIRE(::chmod(path.c_str(), 0755) == 0); // other users' clients come in
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

struct Loan {
  explicit Loan(std::string owner = {}, std::string trusted_group = {}, bool opens = true) {
    options.owner = std::move(owner);
    options.trusted_group = std::move(trusted_group);
    options.is_program = [this](::pid_t) { return programs; };
    options.lender.open = [this](DeviceSource::Opened opened) { asked.push_back(std::move(opened)); };
    socket = LoanSocket::open(io, std::move(options), [this](const core::Event& event) {
      if (const auto* open = std::get_if<core::LoanOpened>(&event)) result = open->socket;
      if (const auto* changed = std::get_if<core::UsageChanged>(&event)) usage = changed->usage;
      if (std::holds_alternative<core::LoanClosed>(event)) ++closed;
      if (std::holds_alternative<core::FabricLost>(event)) ++fabrics_lost;
    });
    if (opens) lender_answers();
  }
  ~Loan() {
    socket->abandon();
    settle(io);
  }

  void lender_answers() {
    REQUIRE(asked.size() == 1);
    OpenedDevice open;
    open.device = device;
    open.close = [this](std::move_only_function<void()> done) {
      ++lender_closed;
      done();
    };
    std::exchange(asked, {}).front()(std::move(open));
    settle(io);
  }
  std::string path() const { return folder.path + "/loans/80000/cntrl"; }
  struct stat status(const std::string& of) const {
    struct stat found = {};
    REQUIRE(::stat(of.c_str(), &found) == 0);
    return found;
  }
  bool is_open() const { return result && *result; }
  void wait_closed() {
    run_until(io, [this] { return closed != 0; });
  }

  boost::asio::io_context io;
  Folder folder;
  LoanSocket::Options options{id, folder.path + "/loans/80000", {}, {}, {}, {}, false};
  std::vector<DeviceSource::Opened> asked; ///< of the lender, which has not answered
  std::shared_ptr<LendersDevice> device = std::make_shared<LendersDevice>();
  std::shared_ptr<LoanSocket> socket;
  std::optional<Result<std::string>> result;
  core::Usage usage;
  bool programs = true; ///< whether clients asked this node for the device, as programs on libsmartio do
  int closed = 0, fabrics_lost = 0, lender_closed = 0;
};

/// A client of the loan that is a process of its own, of that user.
struct Client {
  explicit Client(Loan& of, ::uid_t uid = 0, ::gid_t gid = 0) : loan(of), process(loan.path(), uid, gid) {
    REQUIRE(process.error() == 0);
  }
  bool greet() {
    const auto reply = raw.ask(message(Command::version, version("{}")));
    return reply && !reply->failed();
  }
  /// How BAR 0 is given: with how many descriptors, and whether it says that it can be mapped.
  struct Registers {
    std::size_t fds;
    bool mappable;
    bool operator==(const Registers&) const = default;
  };
  Registers registers() {
    const auto reply = raw.ask(message(Command::get_region_info, test::raw(RegionInfoBody{256, 0, 0, 0, 0, 0})));
    REQUIRE((reply && !reply->failed()));
    return {reply->fds.size(), (load<RegionInfoBody>(reply->payload).value().flags & vfio::region_flag_mmap) != 0};
  }
  /// The errno of the answer, 0 for success.
  std::uint32_t ask(const Bytes& command, std::vector<int> fds = {}) {
    const auto reply = raw.ask(command, std::move(fds));
    REQUIRE(reply);
    return reply->failed() ? reply->header.error : 0;
  }
  Bytes read(std::uint64_t offset) {
    const auto reply = raw.ask(message(Command::region_read, region_read(offset, 0, 4)));
    REQUIRE((reply && !reply->failed()));
    return {reply->payload.begin() + sizeof(AccessBody), reply->payload.end()};
  }
  /// An eventfd that this interrupt signals.
  Fd connect(std::uint32_t index) {
    auto event = make_eventfd().value();
    const SetIrqsBody body{20, vfio::irq_data_eventfd | vfio::irq_action_trigger, index, 0, 1};
    REQUIRE(ask(message(Command::set_irqs, test::raw(body)), {event.get()}) == 0);
    return event;
  }
  void leave() { // its process has the socket, too
    REQUIRE(::shutdown(raw.fd(), SHUT_RDWR) == 0);
    settle(loan.io);
  }

  Loan& loan;
  ClientProcess process;
  Raw raw{loan.io, process.socket().duplicate().value()};
};

constexpr Client::Registers mapped{1, true}, by_message{0, false};
const Bytes ones(4, std::byte{0xff});

bool root() { return ::geteuid() == 0; }

/// A descriptor that is a whole function: by its name in /proc, that of a node in /dev/vfio.
Fd function(OwnMounts& mounts) {
  REQUIRE(mounts.hide("/dev"));
  REQUIRE(std::filesystem::create_directories("/dev/vfio/devices"));
  Fd fd(::open("/dev/vfio/devices", O_RDONLY | O_CLOEXEC | O_DIRECTORY));
  REQUIRE(fd);
  return fd;
}

} // namespace

TEST_CASE("the socket of a loan is for whoever runs the node, in folders that nobody can look into") {
  Loan loan;
  REQUIRE(loan.is_open());
  CHECK(loan.result->value() == loan.path());
  CHECK((loan.status(loan.path()).st_mode & 07777) == 0600);
  CHECK(loan.status(loan.path()).st_uid == ::geteuid());
  for (const auto* folder : {"/loans", "/loans/80000"})
    CHECK((loan.status(loan.folder.path + folder).st_mode & 066) == 0);
  if (!root()) SKIPPED("only root can be other users");
  CHECK(ClientProcess(loan.path(), 65534, 65534).error() == EACCES);
  CHECK(ClientProcess(loan.path(), 0, 0).error() == 0);
}

TEST_CASE("the socket of a loan belongs to the owner that was named, and to its group where one was named") {
  if (!root()) SKIPPED("only root can be other users");
  const auto* nobody = ::getpwnam("nobody");
  const auto* group = ::getgrnam("daemon");
  if (nobody == nullptr || group == nullptr) SKIPPED("there is no user nobody, or no group daemon");
  const auto [uid, own_gid, gid] = std::tuple{nobody->pw_uid, nobody->pw_gid, group->gr_gid};
  const bool with_group = GENERATE(false, true);
  Loan loan(with_group ? "nobody:daemon" : "nobody");
  REQUIRE(loan.is_open());
  const auto status = loan.status(loan.path());
  CHECK((status.st_mode & 07777) == (with_group ? 0660 : 0600));
  CHECK(status.st_uid == uid);
  CHECK(status.st_gid == (with_group ? gid : own_gid));
  CHECK(ClientProcess(loan.path(), uid, own_gid).error() == 0);
  CHECK(ClientProcess(loan.path(), 1234567, gid).error() == (with_group ? 0 : EACCES));
  CHECK(ClientProcess(loan.path(), 1234567, 1234567).error() == EACCES);
}

TEST_CASE("a loan for an owner or a group that does not exist is not opened") {
  const Loan loan(GENERATE("no such user", "root:no such group", ":root"));
  REQUIRE(loan.result.has_value());
  REQUIRE_FALSE(loan.result->has_value());
  CHECK(loan.result->error().code == Errc::bad_request);
}

TEST_CASE("a function's own descriptor goes to root and the trusted group, and to nobody else") {
  if (!root()) SKIPPED("only root can be other users");
  const auto* nobody = ::getpwnam("nobody");
  const auto* group = nobody == nullptr ? nullptr : ::getgrgid(nobody->pw_gid);
  if (group == nullptr) SKIPPED("the user nobody has no group");
  const std::string trusted = group->gr_name;
  const auto uid = nobody->pw_uid;
  const auto gid = nobody->pw_gid;
  struct Case {
    std::string who, trusted_group;
    ::uid_t uid;
    ::gid_t gid;
    bool given;
  };
  const auto [who, trusted_group, as, of, given] = GENERATE_COPY(values<Case>({
      {"root", "", 0, 0, true},
      {"root of another group", trusted, 0, 1234567, true},
      {"a user, with no group trusted", "", uid, gid, false},
      {"a user of the trusted group", trusted, uid, gid, true},
      {"a user that says another group, as an account of the trusted one", trusted, uid, 1234567, true},
      {"somebody without an account, of the trusted group", trusted, 1234567, gid, true},
      {"somebody without an account", trusted, 1234567, 1234567, false},
      {"a user of another group", "daemon", uid, gid, false},
      {"a user, with a group trusted that does not exist", "no such group", uid, gid, false},
      {"the user that runs the node", "", uid, gid, true},
  }));
  INFO(who);
  OwnMounts mounts;
  if (!mounts) SKIPPED("no mounts of its own");
  Loan loan("", trusted_group);
  REQUIRE(::chmod(loan.path().c_str(), 0666) == 0);
  const bool unknown = GENERATE(false, true);
  loan.device->registers = function(mounts);
  if (unknown) {
    loan.device->registers = make_eventfd().value();
    REQUIRE(mounts.hide("/proc")); // where a descriptor's kind is written
  }
  Client client(loan, as, of);
  if (who == "the user that runs the node") REQUIRE(::seteuid(as) == 0);
  const bool greeted = client.greet();
  REQUIRE(::seteuid(0) == 0);
  REQUIRE(greeted);
  CHECK(client.registers() == (given ? mapped : by_message));
  settle(loan.io);
  CHECK(loan.usage.trapped == !given);
  const auto before = loan.device->requests;
  CHECK(client.read(page) == Bytes(4)); // each access is a message
  CHECK(loan.device->requests == before + 1);
}

TEST_CASE("memory that a device's server chose to share goes to every client") {
  if (!root()) SKIPPED("only root can be other users");
  Loan loan;
  REQUIRE(::chmod(loan.path().c_str(), 0666) == 0);
  Client client(loan, 65534, 65534);
  REQUIRE(client.greet());
  CHECK(client.registers() == mapped);
  settle(loan.io);
  CHECK_FALSE(loan.usage.trapped);
}

TEST_CASE("once a loan is taken back its client gets no descriptor of the registers any more, and reads ones") {
  Loan loan;
  const bool orderly = GENERATE(true, false);
  loan.programs = GENERATE(true, false);
  Client client(loan);
  REQUIRE(client.greet());
  CHECK(client.registers() == mapped);
  const auto before = loan.device->requests;
  loan.socket->close(orderly);
  CHECK_FALSE(std::filesystem::exists(loan.path())); // though its client is still there
  CHECK(client.registers() == by_message);
  CHECK(client.read(page) == ones);
  CHECK(client.ask(message(Command::region_write, join(test::raw(AccessBody{0, 0, 4}), ones))) == 0);
  CHECK(client.ask(message(Command::reset)) == ENODEV);
  CHECK(loan.device->requests == before);
  CHECK(loan.closed == 0);
  client.leave();
  loan.wait_closed();
  CHECK(loan.lender_closed == 1);
  CHECK_FALSE(std::filesystem::exists(loan.path()));
}

TEST_CASE("a client that comes, or is about to be served, when a loan ends is served nothing") {
  Loan loan;
  Client waiting(loan); // connected, and silent
  settle(loan.io);
  loan.socket->close(true);
  CHECK_FALSE(waiting.greet());
  loan.wait_closed();
  CHECK(loan.closed == 1);
  CHECK(loan.lender_closed == 1);
  CHECK(ClientProcess(loan.path(), ::geteuid(), ::getegid()).error() == ENOENT);
}

TEST_CASE("a loan that has ended while its client stayed is nobody's after that one has left") {
  Loan loan;
  Client stays(loan), next(loan);
  REQUIRE(stays.greet());
  settle(loan.io);
  loan.socket->close(true);
  loan.wait_closed();
  stays.leave();
  CHECK_FALSE(next.greet());
  CHECK(loan.asked.empty());
  CHECK(loan.closed == 1);
}

TEST_CASE("a loan has one client at a time") {
  Loan loan;
  std::optional<Client> first(std::in_place, loan);
  REQUIRE(first->greet());
  Client second(loan);
  const auto reply = second.raw.ask(message(Command::version, version("{}")));
  REQUIRE(reply);
  CHECK(reply->header.error == EBUSY);
  CHECK(first->read(0) == Bytes(4));
  first->leave();
  Client third(loan);
  CHECK(loan.asked.empty());
  REQUIRE(third.raw.send(message(Command::version, version("{}"))));
  settle(loan.io);
  const auto earlier = std::exchange(loan.device, std::make_shared<LendersDevice>());
  loan.lender_answers(); // anew for each client
  const auto greeting = third.raw.receive();
  CHECK((greeting && !greeting->failed()));
  CHECK(loan.lender_closed == 1);
  earlier->lost();
  CHECK(loan.fabrics_lost == 0); // it was the first client's
  CHECK(third.read(0) == Bytes(4));
}

TEST_CASE("a lender that answers after the loan was closed is let go, and nobody is told that the loan is open") {
  Loan loan("", "", false);
  const bool abandoned = GENERATE(false, true);
  if (abandoned)
    loan.socket->abandon();
  else
    loan.socket->close(GENERATE(false, true));
  settle(loan.io);
  CHECK(loan.closed == (abandoned ? 0 : 1));
  loan.lender_answers();
  CHECK(loan.lender_closed == 1);
  CHECK_FALSE(loan.result.has_value());
  CHECK_FALSE(std::filesystem::exists(loan.path()));
}

TEST_CASE("a device that is lost before the first client comes is not given to that one") {
  Loan loan;
  REQUIRE(loan.is_open());
  REQUIRE(loan.device->lost);
  std::exchange(loan.device->lost, nullptr)();
  settle(loan.io);
  CHECK(loan.lender_closed == 1);
  CHECK(loan.fabrics_lost == 0);
  Client client(loan);
  REQUIRE(client.raw.send(message(Command::version, version("{}"))));
  settle(loan.io);
  CHECK(loan.asked.size() == 1);
}

TEST_CASE("a lender that answers after its client has gone, or after the loan was closed, is let go") {
  Loan loan;
  std::optional<Client> first(std::in_place, loan);
  REQUIRE(first->greet());
  first->leave();
  REQUIRE(loan.lender_closed == 1);
  std::optional<Client> second(std::in_place, loan);
  REQUIRE(second->raw.send(message(Command::version, version("{}"))));
  settle(loan.io);
  REQUIRE(loan.asked.size() == 1);
  SECTION("the client has gone") { second->leave(); }
  SECTION("the loan is closed") { loan.socket->close(true); }
  SECTION("the loan is abandoned") { loan.socket->abandon(); }
  loan.lender_answers();
  CHECK(loan.lender_closed == 2);
}

TEST_CASE("a program that holds a function when its loan ends is ended, half a second after it was told, and nobody "
          "else") {
  if (!root()) SKIPPED("only root can be other users");
  OwnMounts mounts;
  if (!mounts) SKIPPED("no mounts of its own");
  Loan loan;
  const auto [program, holds, named] = GENERATE(
      table<bool, bool, bool>({{true, true, true}, {true, true, false}, {true, false, true}, {false, true, true}}));
  INFO((program ? "a program" : "a virtual machine") << (holds ? " with the function" : ""));
  loan.programs = program;
  if (holds) loan.device->registers = named ? function(mounts) : make_eventfd().value(); // or of no known kind
  Client client(loan);
  REQUIRE(client.greet());
  CHECK(client.registers() == mapped);
  const auto start = std::chrono::steady_clock::now();
  loan.socket->close(true);
  CHECK(client.process.lives());
  loan.wait_closed();
  CHECK(std::chrono::steady_clock::now() - start >= client_patience);
  CHECK(client.process.lives() != (program && holds));
  CHECK(loan.lender_closed == 1); // whoever stays reaches nothing
  CHECK(client.read(0) == ones);
  CHECK(loan.closed == 1);
}

TEST_CASE("a program that lets go in time lives") {
  if (!root()) SKIPPED("only root can be other users");
  OwnMounts mounts;
  if (!mounts) SKIPPED("no mounts of its own");
  Loan loan;
  loan.device->registers = function(mounts);
  Client client(loan);
  REQUIRE(client.greet());
  CHECK(client.registers() == mapped);
  loan.socket->close(true);
  client.leave();
  CHECK(loan.closed == 1);
  const auto start = std::chrono::steady_clock::now();
  run_until(loan.io, [start] { return std::chrono::steady_clock::now() - start > client_patience * 3 / 2; });
  CHECK(client.process.lives());
}

TEST_CASE("a virtual machine's windows without a descriptor never reach the lender, a program's do") {
  Loan loan;
  loan.programs = GENERATE(false, true);
  Client client(loan);
  REQUIRE(client.greet());
  const auto memory = make_memfd("memory", page).value();
  const auto map = [&client](std::uint64_t iova, std::vector<int> fds) {
    return client.ask(message(Command::dma_map, test::raw(DmaMapBody{32, 3, 0, iova, page})), std::move(fds));
  };
  CHECK(map(0, {memory.get()}) == 0);
  CHECK(map(page, {}) == 0);
  settle(loan.io);
  CHECK(loan.device->windows.size() == (loan.programs ? 2 : 1));
  CHECK(loan.usage.windows == (loan.programs ? 2 : 1));
  CHECK(loan.usage.unreachable_windows == (loan.programs ? 0 : 1));
  CHECK(loan.usage.client == (loan.programs ? "libsmartio" : "vfio-user"));
  CHECK(loan.usage.pid == client.process.pid());
}

TEST_CASE("a lost device is told by ERR, one taken back by ERR to programs and by REQ to virtual machines") {
  Loan loan;
  loan.programs = GENERATE(false, true);
  Client client(loan);
  REQUIRE(client.greet());
  const auto error = client.connect(vfio::err);
  const auto wanted = loan.programs ? make_eventfd().value() : client.connect(vfio::req);
  const auto irqs = loan.device->irqs.size();
  const bool lost = GENERATE(false, true);
  if (lost)
    loan.device->lost();
  else
    loan.socket->close(true);
  const bool by_error = lost || loan.programs;
  CHECK(drain_eventfd(error.get()) == (by_error ? 1 : 0));
  CHECK(drain_eventfd(wanted.get()) == (by_error ? 0 : 1));
  CHECK(loan.fabrics_lost == (lost ? 1 : 0));
  CHECK(irqs == 0);                                                         // these are this node's
  if (by_error) CHECK(drain_eventfd(client.connect(vfio::err).get()) == 1); // whoever asks late is told, too
  CHECK(client.read(0) == ones);
  if (lost) // its memory may still be written
    CHECK(client.ask(message(Command::dma_unmap, test::raw(DmaUnmapBody{24, 0, 0, page}))) == ENODEV);
}
