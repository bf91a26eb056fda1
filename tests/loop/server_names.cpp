// One server under several names: what leads to one socket, now or when it was connected to.
#include "server_names.hpp"

#include "catch.hpp"
#include "fixture_tree.hpp"
#include "serving_socket.hpp"

#include <filesystem>
#include <unistd.h>

using namespace smartio;
using testing::serve;

namespace {

const DeviceId one{0x80000}, two{0x80001};

/// A server at `real/disk`, known as `one`.
struct Bed {
  testing::Tree tree;
  Fd server;
  ServerNames names;

  Bed() {
    tree.folder("real");
    server = serve(tree.at("real/disk"));
    names.look(one, tree.at("real/disk"));
  }
  std::optional<DeviceId> added(const std::string& name) {
    names.look(two, tree.at(name));
    return names.other(two, true);
  }
};

} // namespace

TEST_CASE("a server is known by whatever name leads to it, and no other one is taken for it") {
  Bed bed;
  bed.tree.link("link", "real/disk");
  bed.tree.link("chain", "link");
  bed.tree.link("folder", "real");
  std::filesystem::create_hard_link(bed.tree.at("real/disk"), bed.tree.at("hard"));
  for (const char* name : {"link", "chain", "folder/disk", "hard", "real/../real/disk", ".//real/./disk"}) {
    INFO(name);
    CHECK(bed.added(name) == one);
    CHECK(!bed.names.other(two, false)); // nobody has it open
  }
  const auto other = serve(bed.tree.at("other"));
  bed.tree.file("file", "");
  bed.tree.link("dangling", "nowhere");
  for (const char* name : {"other", "file", "dangling", "nothing"}) {
    INFO(name);
    CHECK(!bed.added(name));
  }
}

TEST_CASE("a server that was started anew since is known by its name; two, one after the other, are two") {
  Bed bed;
  bed.tree.link("link", "real/disk");
  bed.server = serve(bed.tree.at("real/disk"));
  CHECK(bed.added("link") == one);
  std::filesystem::rename(bed.tree.at("real/disk"), bed.tree.at("moved"));
  const auto later = serve(bed.tree.at("real/disk"));
  CHECK(!bed.added("moved"));
}

TEST_CASE("a name that leads elsewhere by now is not taken for what it led to") {
  Bed bed;
  bed.tree.link("link", "real/disk");
  bed.names.look(one, bed.tree.at("link"));
  const auto other = serve(bed.tree.at("other"));
  bed.tree.link("link", "other");
  CHECK(!bed.added("real/disk"));
}

TEST_CASE("a server that is open is known although its name is gone; it is free once that is over") {
  Bed bed;
  std::filesystem::create_hard_link(bed.tree.at("real/disk"), bed.tree.at("hard"));
  auto open = bed.names.hold(one);
  auto again = bed.names.hold(one); // before the first has ended
  std::filesystem::remove(bed.tree.at("real/disk"));
  bed.names.look(two, bed.tree.at("hard"));
  CHECK(bed.names.other(two, false) == one);
  CHECK(!bed.names.other(one, false)); // its own is not another one's
  open.reset();
  CHECK(bed.names.other(two, false) == one);
  again.reset();
  CHECK(!bed.names.other(two, false));
}

TEST_CASE("two names that come to lead to one server are one's that has it open, and either's after that") {
  Bed bed;
  const auto other = serve(bed.tree.at("other"));
  bed.tree.link("link", "other");
  bed.names.look(two, bed.tree.at("link"));
  auto open = bed.names.hold(one);
  CHECK(!bed.names.other(two, false));
  bed.tree.link("link", "real/disk");
  bed.names.look(two, bed.tree.at("link"));
  CHECK(bed.names.other(two, false) == one);
  bed.names.forget(one);
  CHECK(!bed.names.other(two, false));
}

TEST_CASE("what is open may outlive the names") {
  auto names = std::make_unique<ServerNames>();
  const auto open = names->hold(one);
  names.reset();
}
