// A host with two drives whose drivers are taken and given back, in a tree of files.
#pragma once

#include "catch.hpp"
#include "checks.hpp"
#include "driver_kernel.hpp"
#include "host/binding.hpp"

namespace testing {

using smartio::Bdf;
using smartio::Errc;
using smartio::Error;

inline const std::string drive = "0000:06:00.0", second = "0000:07:00.0";
inline const Bdf drive_bdf = *smartio::parse_bdf(drive), second_bdf = *smartio::parse_bdf(second);

/// A host with two drives.
struct Host {
  Tree tree;
  DriverKernel kernel{tree};

  explicit Host(const std::string& driver = "nvme") {
    add_function(tree, {.bdf = drive, .driver = driver});
    add_function(tree, {.bdf = second, .driver = "nvme", .group = 15});
    tree.file("proc/sys/kernel/random/boot_id", "boot-1\n");
  }
  host::Binder open() {
    auto binder = host::Binder::open(tree.root(), tree.at("state"), kernel.system());
    REQUIRE(binder);
    return std::move(*binder);
  }
  std::string journal() const { return host::read_text(tree.at("state/journal.json")).value_or(""); }
  bool journal_names(const std::string& bdf) const { return journal().find(bdf) != std::string::npos; }
  bool untouched(const std::string& bdf) const {
    return kernel.driver(bdf) == "nvme" && kernel.driver_override(bdf) == "(null)" && !journal_names(bdf);
  }
  /// From now on the journal cannot be written.
  void fill_disk() const { tree.folder("state/journal.json.new"); }
  void empty_disk() const { tree.remove("state/journal.json.new"); }
};

inline std::optional<Error> error(int number) { return Error{{number, std::system_category()}, "as told"}; }
inline std::optional<Error> hang() { return Error{smartio::make_error_code(Errc::timed_out), "as told"}; }

} // namespace testing
