// Noticing that a device's server is there again: by what is at its path, once, and for those that are waited for only.
#include "server_watch.hpp"

#include "catch.hpp"
#include "serving_socket.hpp"

#include <fcntl.h>
#include <filesystem>
#include <unistd.h>

using namespace smartio;
using namespace std::chrono_literals;

namespace {

struct Bed {
  boost::asio::io_context io;
  std::filesystem::path folder = make_folder();
  std::vector<std::string> back;
  ServerWatch watch{io, [this](const std::string& path) { back.push_back(path); }};

  ~Bed() { std::filesystem::remove_all(folder); }
  static std::filesystem::path make_folder() {
    std::string name = std::filesystem::temp_directory_path() / "watch.XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    return name;
  }
  std::string path(const char* name) const { return folder / name; }
  bool comes(std::size_t count) {
    const auto end = std::chrono::steady_clock::now() + 10s;
    io.restart();
    while (back.size() < count && std::chrono::steady_clock::now() < end) io.run_one_for(10ms);
    return back.size() == count;
  }
};

} // namespace

TEST_CASE("a server that is there again is told of once; one that is the same, or another file, is not") {
  Bed bed;
  const auto gone = bed.path("gone"), same = bed.path("same"), file = bed.path("file"), witness = bed.path("witness");
  const auto stays = testing::serve(same);
  for (const auto& path : {gone, same, file, witness}) {
    bed.watch.trying(path);
    bed.watch.missed(path);
  }
  Fd(::open(file.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  const auto again = testing::serve(gone);
  CHECK(bed.comes(1));
  CHECK(bed.back[0] == gone);
  const auto last = testing::serve(witness); // by now all have been looked at
  CHECK(bed.comes(2));
  CHECK(bed.back[1] == witness);
}

TEST_CASE("a server that is forgotten, or tried again, is not waited for any more") {
  Bed bed;
  const auto forgotten = bed.path("forgotten"), tried = bed.path("tried"), witness = bed.path("witness");
  for (const auto& path : {forgotten, tried, witness}) {
    bed.watch.trying(path);
    bed.watch.missed(path);
  }
  const auto one = testing::serve(forgotten), two = testing::serve(tried);
  bed.watch.forget(forgotten);
  bed.watch.trying(tried);
  const auto last = testing::serve(witness);
  CHECK(bed.comes(1));
  CHECK(bed.back[0] == witness);
  bed.io.run_for(500ms);
  CHECK(bed.back.size() == 1);
}

TEST_CASE("a server whose socket is there before anybody listens is tried again some seconds later") {
  Bed bed;
  const auto slow = bed.path("slow");
  const auto socket = testing::serve(slow);
  bed.watch.trying(slow);
  bed.watch.missed(slow, true);
  bed.io.run_for(1s);
  CHECK(bed.back.empty());
  CHECK(bed.comes(1));
}

TEST_CASE("while no server is away nobody wakes up") {
  Bed bed;
  const auto path = bed.path("server");
  bed.watch.trying(path);
  CHECK(bed.io.poll() == 0);
  bed.watch.missed(path);
  const auto socket = testing::serve(path);
  CHECK(bed.comes(1));
  bed.io.run(); // which returns
}
