// The state file on a disk: what is appended, what is written anew, and what a failure leaves.
#include "state_file.hpp"

#include "catch.hpp"

#include <filesystem>
#include <fstream>
#include <optional>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

using namespace smartio;

namespace {

struct Scratch {
  std::string path = "/tmp/smartio-state-XXXXXX";
  Scratch() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  ~Scratch() { std::filesystem::remove_all(path); }
};

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

::ino_t inode_of(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
}

/// What a node would keep: the sum of all changes.
struct Kept {
  Scratch scratch;
  std::string path = scratch.path + "/state";
  std::string all = "whole\n";
  unsigned wholes = 0, failures = 0, successes = 0;
  boost::asio::io_context io;
  std::optional<StateFile> file{std::in_place, io, path,
                                [this] {
                                  ++wholes;
                                  return all;
                                },
                                [this](const Result<void>& saved) { ++(saved ? successes : failures); }};

  void change(const std::string& line) {
    all += line;
    file->save(line);
  }
  /// Until all so far is on the disk, or cannot be brought there.
  void settle() {
    bool done = false;
    file->when_saved([&done] { done = true; });
    const auto busy = boost::asio::make_work_guard(io);
    io.restart();
    while (!done) io.run_one();
  }
};

} // namespace

TEST_CASE("the first change writes the whole, those after it are appended") {
  Kept kept;
  kept.change("a\n");
  kept.settle();
  CHECK(text_of(kept.path) == "whole\na\n");
  const auto inode = inode_of(kept.path);
  for (const char* line : {"b\n", "c\n", ""}) {
    kept.change(line);
    kept.settle();
    CHECK(text_of(kept.path) == kept.all);
  }
  CHECK(inode_of(kept.path) == inode);
  CHECK(kept.wholes == 1);
}

TEST_CASE("changes that are longer than the whole make place for it") {
  Kept kept;
  kept.change("");
  kept.settle();
  const std::string line(1000, 'x');
  std::string whole = kept.all;
  for (unsigned i = 0; i < 100; ++i) {
    kept.file->save(line); // each says the same
    kept.settle();
  }
  CHECK(kept.wholes == 2);
  CHECK(text_of(kept.path).starts_with(whole + line));
  CHECK(text_of(kept.path).size() < 50000);
}

TEST_CASE("what cannot be appended is written with the whole, and nobody need know") {
  Kept kept;
  kept.change("a\n");
  kept.settle();
  ::unlink(kept.path.c_str());
  for (const char* line : {"b\n", "c\n", "d\n"}) kept.change(line);
  kept.settle();
  CHECK(kept.failures == 0);
  CHECK(text_of(kept.path) == kept.all);
}

TEST_CASE("a disk that takes nothing is told of, and what it missed is there with the next change") {
  Kept kept;
  kept.change("a\n");
  kept.settle();
  const auto elsewhere = kept.scratch.path + ".gone";
  std::filesystem::rename(kept.scratch.path, elsewhere);
  kept.change("b\n");
  kept.settle();
  kept.change("c\n");
  kept.settle();
  CHECK(kept.failures == 1);
  CHECK(kept.file->unsaved());
  std::filesystem::rename(elsewhere, kept.scratch.path);
  CHECK(text_of(kept.path) == "whole\na\n");
  kept.change("d\n");
  kept.settle();
  CHECK(kept.failures == 1);
  CHECK(kept.successes == 1);
  CHECK_FALSE(kept.file->unsaved());
  CHECK(text_of(kept.path) == kept.all);
}

TEST_CASE("what a disk missed is there by itself, once it takes it") {
  Kept kept;
  const auto elsewhere = kept.scratch.path + ".gone";
  std::filesystem::rename(kept.scratch.path, elsewhere);
  kept.change("a\n");
  kept.settle();
  CHECK(kept.file->unsaved());
  const auto busy = boost::asio::make_work_guard(kept.io);
  const auto failed = kept.wholes;
  while (kept.wholes == failed) kept.io.run_one(); // tried again, and told no more
  std::filesystem::rename(elsewhere, kept.scratch.path);
  while (kept.successes == 0) kept.io.run_one();
  CHECK(kept.failures == 1);
  CHECK(text_of(kept.path) == kept.all);
}

TEST_CASE("what comes while a write is failing is written without being asked for again") {
  Kept kept;
  kept.all.insert(0, 64 << 20, 'x');            // so that it takes a while
  std::filesystem::create_directory(kept.path); // in the place of the file
  kept.change("a\n");
  while (!std::filesystem::exists(kept.path + ".new")) std::this_thread::yield();
  kept.change("b\n");
  const auto busy = boost::asio::make_work_guard(kept.io);
  while (kept.failures == 0) kept.io.run_one();
  std::filesystem::remove(kept.path);
  kept.settle();
  CHECK(std::filesystem::file_size(kept.path) == kept.all.size());
}

TEST_CASE("a change is not lost because the end follows at once") {
  for (int i = 0; i < 50; ++i) {
    Kept kept;
    kept.change("a\n");
    kept.file.reset();
    REQUIRE(text_of(kept.path) == kept.all);
  }
}

TEST_CASE("everything is on the disk at the end, also after a failure") {
  Kept kept;
  kept.change("a\n");
  kept.change("b\n");
  SECTION("as it was told") {}
  SECTION("and tried once more") {
    kept.settle();
    ::unlink(kept.path.c_str());
    kept.change("c\n");
  }
  kept.file.reset();
  CHECK(text_of(kept.path) == kept.all);
}
