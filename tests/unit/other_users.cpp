// What a user without rights is refused, with which sentence, and that nothing of root's changed by the attempt.
#include "as_nobody.hpp"
#include "catch.hpp"
#include "driver_kernel.hpp"
#include "file.hpp"
#include "host/binding.hpp"
#include "host/child.hpp"
#include "kernel/system.hpp"
#include "skipped.hpp"
#include "user/client.hpp"
#include "user/server.hpp"

#include <boost/asio/io_context.hpp>
#include <sys/stat.h>
#include <sys/un.h>

using namespace smartio;
using namespace smartio::vfio;
using smartio::testing::as_nobody;
using smartio::testing::nobody;
using ::testing::Tree;

namespace {

template <class T> std::string said(const Result<T>& result) { return result ? "(done)" : to_string(result.error()); }

std::string connected(const std::string& path) {
  boost::asio::io_context io;
  std::string outcome = "(nothing)";
  const auto opened = [&outcome](auto result) { outcome = said(result); };
  user::Client::connect(io, path, std::chrono::seconds(20), opened);
  io.run();
  return outcome;
}

std::string served(const std::string& path) {
  boost::asio::io_context io;
  return said(user::Server::listen(
      io, path, [](const ::ucred&) -> std::expected<std::shared_ptr<Device>, int> { return std::unexpected(EBUSY); },
      [] {}));
}

/// Root's things, each where everybody may look.
struct Roots {
  Tree tree;
  boost::asio::io_context io;
  std::unique_ptr<user::Server> server;

  Roots() {
    ::chmod(tree.path().c_str(), 0755);
    tree.file("state/journal.json", "");
    REQUIRE(replace_file(tree.at("state/journal.json"), "root's"));
    REQUIRE(replace_file(tree.at("node"), ""));
    tree.file("attribute", "root's\n");
    server =
        user::Server::listen(
            io, tree.at("device.sock"),
            [](const ::ucred&) -> std::expected<std::shared_ptr<Device>, int> { return std::unexpected(EBUSY); }, [] {})
            .value();
  }
  std::string attribute() const { return host::read_text(tree.at("attribute")).value_or(""); }
  std::string journal() const { return host::read_text(tree.at("state/journal.json")).value_or(""); }
};

} // namespace

TEST_CASE("what is root's is refused to others, with a sentence") {
  if (::geteuid() != 0) SKIPPED("only root can become another user");
  const Roots roots;
  const auto at = [&roots](const char* name) { return roots.tree.at(name); };
  struct Row {
    const char* what;
    std::function<std::string()> doing;
    std::string says;
  };
  const Row rows[]{
      {"reading the journal", [&] { return said(read_file(at("state/journal.json"))); },
       "open " + at("state/journal.json")},
      {"replacing it", [&] { return said(replace_file(at("state/journal.json"), "nobody's")); },
       "create " + at("state/journal.json.new")},
      {"owning a directory in root's", [&] { return said(own_directory(at("run"))); }, "make directory " + at("run")},
      {"owning root's directory", [&] { return said(own_directory(at("state"))); }, "open " + at("state/lock")},
      {"binding drivers", [&] { return said(host::Binder::open(roots.tree.root(), at("state"))); },
       "open " + at("state/journal.json")},
      {"writing an attribute",
       [&] { return said(host::write_in_child(at("attribute"), "nobody's", std::chrono::seconds(20))); },
       "write to " + at("attribute")},
      {"opening a node",
       [&] {
         const auto opened = kernel::real_system()->open(at("node"));
         return opened ? "(done)" : std::string(opened.error() == EACCES ? "Permission denied" : "(another error)");
       },
       ""},
      {"using a device", [&] { return connected(at("device.sock")); },
       "Not permitted to connect to " + at("device.sock")},
      {"serving in root's directory", [&] { return served(at("other.sock")); }, "bind " + at("other.sock")},
      {"serving in root's place", [&] { return served(at("device.sock")); }, "connect to " + at("device.sock")},
  };
  for (const auto& row : rows) {
    INFO(row.what);
    const auto sentence = as_nobody(row.doing);
    CHECK(sentence.find(row.says) != std::string::npos);
    CHECK((sentence.find("ermi") != std::string::npos || sentence.find("ddress already in use") != std::string::npos));
    CHECK(sentence.find("(d") == std::string::npos);
  }
  CHECK(roots.journal() == "root's");
  CHECK(roots.attribute() == "root's");
  struct stat status {};
  REQUIRE(::lstat(at("device.sock").c_str(), &status) == 0);
  CHECK(S_ISSOCK(status.st_mode));
  CHECK((status.st_mode & 07777) == 0600);
}

TEST_CASE("a user without rights over sysfs takes no function, and its journal says that none is taken") {
  if (::geteuid() != 0) SKIPPED("only root can become another user");
  const std::string drive = "0000:06:00.0";
  Tree tree;
  ::testing::DriverKernel kernel(tree);
  ::testing::add_function(tree, {.bdf = drive, .driver = "nvme"});
  tree.file("proc/sys/kernel/random/boot_id", "boot-1\n");
  ::chmod(tree.path().c_str(), 0755);
  REQUIRE(::chown(tree.at("state").c_str(), nobody, nobody) == 0);
  const auto sentence = as_nobody([&] {
    auto system = host::System::real(); // whose writes are real ones, into files that are root's
    system.load_module = [](const char*) {};
    auto binder = host::Binder::open(tree.root(), tree.at("state"), system);
    return binder ? said(binder->take({*parse_bdf(drive)})) : said(binder);
  });
  CHECK(sentence.find("write to " + tree.at(::testing::devices(drive) + "driver_override")) != std::string::npos);
  CHECK(sentence.find("Permission denied") != std::string::npos);
  CHECK(kernel.driver(drive) == "nvme");
  CHECK(kernel.driver_override(drive) == "(null)");
  CHECK(host::read_text(tree.at("state/journal.json")).value_or("").find(drive) == std::string::npos);
}
