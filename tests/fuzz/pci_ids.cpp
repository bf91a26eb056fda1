// Any file as pci.ids, compressed or not. Names are all that it can cost: whatever stands there, and also when it
// changes between two questions, each question has an answer of one line, and the next one the same.
#include "host/names.hpp"

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#include <thread>

extern "C" {
#include <pci/pci.h>
}

using namespace smartio;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

struct Folder {
  Folder() {
    path = (std::filesystem::temp_directory_path() / "pci-ids-XXXXXX").string();
    require(::mkdtemp(path.data()) != nullptr);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

/// Where libpci looks first; without such a file it looks for the name without ".gz".
std::string& database() {
  static const Folder folder;
  static std::string path = folder.path + "/pci.ids.gz";
  return path;
}

void write(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::trunc).write(text.data(), static_cast<std::streamsize>(text.size()));
}

std::string name_of(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code) {
  auto name = vfio::pci_name(vendor, device, class_code);
  require(!name.empty() && name.find_first_of(std::string_view("\0\n\r", 3)) == name.npos);
  require(vfio::take_names_problem().find('\n') == std::string::npos);
  require(vfio::pci_name(vendor, device, class_code) == name);
  return name;
}

} // namespace

/// In front of libpci's: the same, for a database elsewhere.
extern "C" pci_access* pci_alloc() {
  static const auto real = reinterpret_cast<pci_access* (*)()>(::dlsym(RTLD_NEXT, "pci_alloc"));
  auto* const access = real();
  pci_set_name_list_path(access, database().data(), 0);
  return access;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto& packed = database();
  const auto plain = packed.substr(0, packed.size() - 3);
  std::filesystem::remove(packed);
  write(plain, text);
  // The database stays loaded for the thread that has asked, and goes with it.
  std::thread([] {
    const auto before = name_of(0x1b36, 0x0010, 0x010802);
    write(database(), "8086  Intel Corporation\n");
    require(name_of(0x1b36, 0x0010, 0x010802) == before);
    name_of(0xffff, 0xffff, 0xffffffff);
    name_of(0, 0, 0);
  }).join();
  write(packed, text);
  std::thread([] { name_of(0x8086, 0xf1a5, 0x020000); }).join();
  return 0;
}
