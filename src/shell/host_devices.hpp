// The PCI functions of this host, for the shell: what they are, which filters match, whether they may be lent, and
// moving them between their drivers and vfio-pci. Everything blocks for the kernel, so it is done on a thread of its
// own, one thing at a time, what may take seconds on another; results come back on the event loop.
#pragma once

#include "bdf.hpp"
#include "events.hpp"
#include "host/binding.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace smartio {

class HostDevices {
public:
  /// Undoes what a crash has left half done, as far as it goes; `log` is told. Without a state directory no driver is
  /// ever changed.
  static Result<std::unique_ptr<HostDevices>> open(boost::asio::io_context& io, const std::string& state_dir,
                                                   const std::function<void(int, std::string_view)>& log,
                                                   vfio::host::Root root = {},
                                                   vfio::host::System system = vfio::host::System::real());
  ~HostDevices(); ///< waits for what is under way, for vital product data up to 2 s

  /// "06:00.0", and any other form of lspci -s that names one function, in full; other texts as they are.
  static Result<std::string> full_address(const std::string& text);

  /// What it is, and who: vital product data is read, too, where nothing else says that, which may take 2 s.
  void probe(const Bdf& bdf, std::move_only_function<void(Result<core::Identity>)> done);

  /// The NVMe controllers whose serial numbers are known; virtual functions have their physical one's, so without them.
  void find(std::move_only_function<void(std::vector<core::Seen>)> done);

  /// Binds the function, and its IOMMU group, to vfio-pci. Refused with a sentence when it is not `who`, may not be
  /// lent, when something uses it (unless `force`), or when the group holds a function that is not among `companions`.
  /// Gives who is there.
  void take(const Bdf& bdf, core::Who who, bool force, std::vector<std::string> companions,
            std::move_only_function<void(Result<core::Who>)> done);

  /// Back to its driver, with its group, once no function of that is taken any more. Gives the driver it has then.
  void give_back(const Bdf& bdf, std::move_only_function<void(Result<std::string>)> done);
  /// What is left, of which nothing is open any more; gives what went wrong. The journal has that for the next start.
  void give_back_all(std::move_only_function<void(std::vector<Error>)> done);

  /// For each rule the addresses that match: of this host's functions, and of `added`, which may be behind sockets (and
  /// have no slot) or pulled out. A rule that is none is an error.
  using Matches = std::vector<std::vector<std::string>>;
  void scan(std::vector<core::FilterRule> rules, std::vector<core::Added> added,
            std::move_only_function<void(Result<Matches>)> done);
  void read_config(const Bdf& bdf, std::move_only_function<void(Result<std::vector<std::byte>>)> done);

  /// Who has the function's VFIO device open, other than this process: "process 1234 (qemu)", and so on.
  void holders(const Bdf& bdf, std::move_only_function<void(std::string)> done);

private:
  HostDevices(boost::asio::io_context& io, vfio::host::Root root, std::optional<vfio::host::Binder> binder)
      : io_(io), root_(std::move(root)), binder_(std::move(binder)) {}
  template <class T> void run(std::move_only_function<T()> work, std::move_only_function<void(T)> done);
  template <class T>
  void run_on(boost::asio::thread_pool& pool, std::move_only_function<T()> work, std::move_only_function<void(T)> done);
  void probe_vpd(const Bdf& bdf, core::Identity identity, std::move_only_function<void(Result<core::Identity>)> done);
  Result<core::Who> take_now(const Bdf& bdf, const core::Who& who, bool force, const std::set<Bdf>& companions);
  Result<std::string> give_back_now(const Bdf& bdf);
  Result<Matches> scan_now(const std::vector<core::FilterRule>& rules, const std::vector<core::Added>& added) const;

  /// An IOMMU group on vfio-pci.
  struct Group {
    std::set<Bdf> taken;    ///< by name; the others only because they share the group
    std::vector<Bdf> bound; ///< all of it
  };

  boost::asio::io_context& io_;
  // Of the worker:
  vfio::host::Root root_;
  std::optional<vfio::host::Binder> binder_;
  std::map<std::uint32_t, Group> groups_;
  // Last, so that they end first.
  boost::asio::thread_pool worker_{1};
  boost::asio::thread_pool reader_{1}; ///< of vital product data, which holds up nobody but others of its kind
};

} // namespace smartio
