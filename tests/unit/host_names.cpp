// The names of devices: from the database, whatever is in its place.
#include "host/names.hpp"

#include "catch.hpp"
#include "own_mounts.hpp"
#include "skipped.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

using namespace smartio;
using smartio::test::OwnMounts;

namespace {

const std::string folder = "/usr/share/misc";

/// By a thread that has not asked before: the database stays loaded.
std::string name_of_a_disk() {
  std::string name;
  std::thread([&name] { name = vfio::pci_name(0x1b36, 0x0010, 0x010802); }).join();
  return name;
}

void put(const std::string& database) { std::ofstream(folder + "/pci.ids") << database; }

const std::string good = "1b36  Red Hat, Inc.\n\t0010  A disk\nC 01  Mass storage controller\n\t08  Disks\n";
const std::string numbers = "Class 0108: Device 1b36:0010";

} // namespace

TEST_CASE("names come from the database; where there is none they are numbers") {
  OwnMounts mounts;
  if (!std::filesystem::exists(folder) || !mounts.hide(folder.c_str())) SKIPPED("no mounts of its own");
  CHECK(name_of_a_disk() == numbers);
  put(good);
  CHECK(name_of_a_disk() == "Disks: Red Hat, Inc. A disk");
  CHECK(vfio::take_names_problem().empty());
}

TEST_CASE("a database that cannot be read makes numbers of names, and is told once") {
  OwnMounts mounts;
  if (!std::filesystem::exists(folder) || !mounts.hide(folder.c_str())) SKIPPED("no mounts of its own");
  const auto bad = GENERATE_COPY(as<std::string>{}, "<html>\n<body>Not found</body>\n", "x", good + "<html>",
                                 good + std::string(100000, 'x') + "\n", "\t0010  a device of no vendor\n", "12345\n",
                                 good + good, std::string(4096, '\xff') + "\n");
  put(bad);
  CAPTURE(bad.substr(0, 100));
  CHECK(name_of_a_disk() == numbers);
  static std::string told; // of all these, the first
  told += vfio::take_names_problem();
  CAPTURE(told);
  CHECK(told.ends_with(" at " + folder + "/pci.ids, line 1"));
  CHECK(std::ranges::count(told, '/') == std::ranges::count(folder, '/') + 1);
}

TEST_CASE("a compressed database that is cut off makes numbers of names") {
  OwnMounts mounts;
  if (!std::filesystem::exists(folder) || !mounts.hide(folder.c_str())) SKIPPED("no mounts of its own");
  put(good);
  const auto place = "cd " + folder + " && ";
  if (std::system((place + "gzip pci.ids && truncate -s -12 pci.ids.gz").c_str()) != 0) SKIPPED("there is no gzip");
  // Where libpci does not know this form it sees no database at all.
  CHECK(name_of_a_disk() == numbers);
}

TEST_CASE("a thread may ask again and again, whatever becomes of the database meanwhile") {
  OwnMounts mounts;
  if (!std::filesystem::exists(folder) || !mounts.hide(folder.c_str())) SKIPPED("no mounts of its own");
  std::thread([] {
    for (const char* database : {"", "# empty until it is written\n", "<html>", "<html>", good.c_str()}) {
      put(database);
      CHECK(vfio::pci_name(0x1b36, 0x0010, 0x010802) == numbers);
    }
  }).join();
}
