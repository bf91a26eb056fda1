// Writes that may hang, in a child.
#include "host/child.hpp"
#include "host/system.hpp"

#include "catch.hpp"
#include "checks.hpp"
#include "fd.hpp"
#include "fixture_tree.hpp"

#include <algorithm>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <span>
#include <sys/stat.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio::host;
using namespace testing;
using namespace std::chrono_literals;

TEST_CASE("a write in a child is made, or its errno told") {
  const Tree tree;
  tree.file("attribute", "");
  REQUIRE(write_in_child(tree.at("attribute"), "0000:06:00.0", 5s));
  CHECK(read_text(tree.at("attribute")) == "0000:06:00.0");
  CHECK(fails_with(write_in_child(tree.at("missing"), "x", 5s), ENOENT));
  CHECK(fails_with(write_in_child("/dev/full", "x", 5s), ENOSPC));
}

TEST_CASE("a read in a child gives the text, or the errno, and does not wait for ever") {
  const Tree tree;
  tree.file("attribute", "vfio-pci \n");
  CHECK(read_in_child(tree.at("attribute"), 5s) == "vfio-pci");
  tree.file("long", std::string(5000, 'x'));
  CHECK(read_in_child(tree.at("long"), 5s) == std::string(1000, 'x'));
  CHECK(fails_with(read_in_child(tree.at("missing"), 5s), ENOENT));
  REQUIRE(::mkfifo(tree.at("fifo").c_str(), 0600) == 0);
  CHECK(fails_with(read_in_child(tree.at("fifo"), 20ms), Errc::timed_out));
  const Fd writer(::open(tree.at("fifo").c_str(), O_WRONLY)); // ends it
}

TEST_CASE("bytes read in a child are all that there are, up to a limit") {
  const Tree tree;
  for (const std::size_t size : {0, 1, 999, 1000, 1001, 32768}) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7);
    tree.file("attribute", text);
    const auto bytes = read_bytes_in_child(tree.at("attribute"), 32768, 5s);
    REQUIRE(bytes);
    CHECK(std::ranges::equal(*bytes, std::as_bytes(std::span(text))));
    CHECK(read_bytes_in_child(tree.at("attribute"), 10, 5s)->size() == std::min<std::size_t>(size, 10));
  }
  CHECK(read_bytes_in_child("/dev/zero", 40000, 5s)->size() == 40000);
  CHECK(fails_with(read_bytes_in_child(tree.at("missing"), 10, 5s), ENOENT));
  CHECK(fails_with(read_bytes_in_child(tree.path(), 10, 5s), EISDIR));
}

TEST_CASE("bytes that do not come are given up, and whoever reads them ends") {
  const Tree tree;
  ::sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before); // as in threads of the runtime
  REQUIRE(::mkfifo(tree.at("fifo").c_str(), 0600) == 0);
  Fd reader(::open(tree.at("fifo").c_str(), O_RDONLY | O_NONBLOCK));
  const Fd writer(::open(tree.at("fifo").c_str(), O_WRONLY | O_NONBLOCK));
  CHECK(fails_with(read_bytes_in_child(tree.at("fifo"), 10, 20ms), Errc::timed_out));
  reader = {};
  pollfd waiting{writer.get(), 0, 0};
  CHECK(::poll(&waiting, 1, 10000) == 1);
  CHECK((waiting.revents & POLLERR) != 0); // nobody is left who reads
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("a write that hangs is left alone, and holds nothing of this process") {
  const Tree tree;
  REQUIRE(::mkfifo(tree.at("fifo").c_str(), 0600) == 0);
  int ends[2];
  REQUIRE(::pipe(ends) == 0); // inherited by whatever is not careful
  CHECK(fails_with(write_in_child(tree.at("fifo"), "late", 20ms), Errc::timed_out));
  ::close(ends[1]);
  char byte = 0;
  pollfd waiting{ends[0], POLLIN, 0};
  CHECK(::poll(&waiting, 1, 5000) == 1); // the end of the file: nobody is left who could write
  CHECK(::read(ends[0], &byte, 1) == 0);
  ::close(ends[0]);
  const Fd reader(::open(tree.at("fifo").c_str(), O_RDONLY));
  char text[8] = {};
  CHECK(::read(reader.get(), text, sizeof text) == 4); // it goes on once it can
  CHECK(std::string(text) == "late");
}

TEST_CASE("a program is waited for, but not for ever") {
  const Tree tree;
  run_in_child("/bin/mkdir", "-p", tree.at("made/by/it").c_str(), 5s);
  CHECK(exists(tree.at("made/by/it")));
  REQUIRE(::mkfifo(tree.at("fifo").c_str(), 0600) == 0);
  run_in_child("/bin/cat", "--", tree.at("fifo").c_str(), 20ms);
  const Fd writer(::open(tree.at("fifo").c_str(), O_WRONLY)); // ends it
  CHECK(writer);
  run_in_child("/no/such/program", "", "", 5s);
}

TEST_CASE("an interface that does not exist has no address") {
  const auto system = System::real();
  CHECK(!system.has_ipv4_address("no-such-interface-name"));
  CHECK(!system.has_ipv4_address("nosuch0"));
  CHECK(!system.has_ipv4_address(""));
}
