// Any bytes as the journal of driver changes. What is understood names drivers, not paths, and is the same after it was
// written again.
#include "file.hpp"
#include "host/journal.hpp"
#include "sentence.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace smartio;
using namespace smartio::vfio::host;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

struct Folder {
  Folder() {
    char name[] = "/dev/shm/fuzz-journal-XXXXXX"; // no disk
    require(::mkdtemp(name) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

void check_name(const std::optional<std::string>& name) {
  require(!name || (!name->empty() && name->find('/') == std::string::npos && *name != "." && *name != ".."));
}

bool same(const Entry& a, const Entry& b) {
  return a.bdf == b.bdf && a.driver == b.driver && a.driver_override == b.driver_override && a.step == b.step;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  const auto file = folder.path + "/journal.json";
  std::ofstream(file, std::ios::trunc).write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  auto journal = Journal::open(file, "boot");
  if (!test::check_result(journal)) return 0;
  for (const auto& [bdf, entry] : journal->entries()) {
    check_name(entry.driver);
    check_name(entry.driver_override);
  }
  const Entry added{.bdf = {.bus = 0xfe}, .driver = "nvme", .driver_override = std::nullopt, .step = {}};
  require(journal->record(added, step::take_unbind).has_value());
  const auto again = Journal::open(file, "boot");
  require(again && again->entries().contains(added.bdf) && again->entries().size() == journal->entries().size());
  for (const auto& [bdf, entry] : journal->entries()) require(same(entry, again->entries().at(bdf)));
  journal->forget(added.bdf);
  require(!Journal::open(file, "boot")->entries().contains(added.bdf));
  return 0;
}
