#include "host_devices.hpp"

#include "addresses.hpp"
#include "host/filter.hpp"
#include "host/holders.hpp"
#include "host/in_use.hpp"
#include "host/lendable.hpp"
#include "host/names.hpp"
#include "result.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <csignal>

namespace smartio {

namespace asio = boost::asio;
namespace host = vfio::host;

namespace {

std::string joined(const std::vector<std::string>& phrases) {
  std::string text;
  for (const auto& phrase : phrases) text += (text.empty() ? "" : "; ") + phrase;
  return text;
}

/// A driver that does not let go is in use; what does not answer is not the node.
Error as_busy(Error error) {
  if (error.code == Errc::timed_out) error.code = make_error_code(Errc::busy);
  return error;
}

/// Threads that are made meanwhile take none of the program's signals.
class SignalsBlocked {
public:
  SignalsBlocked() {
    ::sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

private:
  ::sigset_t before_{};
};

std::string kind_of(const host::Function& function) {
  return core::kind_of(function.vendor, function.device, function.class_code, function.subsystem_vendor,
                       function.subsystem_device);
}

core::Who who_of(const host::Root& root, const host::Function& function) {
  core::Who who{.kind = kind_of(function)};
  if (function.serial_number) who.serials[core::device_serial] = *function.serial_number;
  if (const auto nvme = host::nvme_serial(root, function.bdf)) who.serials[core::nvme_serial] = *nvme;
  return who;
}

core::Identity identity_of(const host::Root& root, const host::Function& function) {
  core::Identity identity;
  identity.vendor = function.vendor;
  identity.device = function.device;
  identity.class_code = function.class_code;
  identity.name = vfio::pci_name(function.vendor, function.device, function.class_code);
  identity.bar_size = function.bar_size;
  identity.vectors = function.msix_vectors.value_or(0);
  identity.iommu_group = function.iommu_group;
  identity.interface.clear();
  identity.driver = function.driver.value_or("");
  identity.who = who_of(root, function);
  return identity;
}

/// Whether its vital product data is to be read: where nothing else tells it from others of its kind, and not while
/// VFIO has it. Whoever uses it there may be reading that, too, or resetting it, and there are devices that hang then.
/// Nothing of this node's is looked at while it is lent.
bool wants_vpd(const host::Root& root, const Bdf& bdf, const core::Identity& identity) {
  return identity.who.serials.empty() && identity.driver != "vfio-pci" && host::has_vpd(root, bdf);
}

} // namespace

Result<std::unique_ptr<HostDevices>> HostDevices::open(asio::io_context& io, const std::string& state_dir,
                                                       const std::function<void(int, std::string_view)>& log,
                                                       host::Root root, host::System system) {
  std::optional<host::Binder> binder;
  if (!state_dir.empty()) {
    binder = TRY(host::Binder::open(root, state_dir, std::move(system)));
    const auto recovered = binder->recover();
    if (log && !recovered) log(3, to_string(recovered.error()));
    if (log && recovered)
      for (const auto& sentence : *recovered) log(4, sentence);
  }
  const SignalsBlocked blocked;
  return std::unique_ptr<HostDevices>(new HostDevices(io, std::move(root), std::move(binder)));
}

HostDevices::~HostDevices() {
  reader_.stop();
  reader_.join();
  worker_.join();
}

Result<std::string> HostDevices::full_address(const std::string& text) {
  if (text.find_first_of(":.") == std::string::npos || text.starts_with(core::user_prefix)) return text;
  // A complete address needs no look at the host: its device may have been pulled out.
  for (const auto& whole : {text, "0000:" + text})
    if (const auto bdf = parse_bdf(whole)) return to_string(*bdf);
  return to_string(TRY(host::find_function({}, text)));
}

/// `work` on the worker, `done` with its result on the event loop.
template <class T> void HostDevices::run(std::move_only_function<T()> work, std::move_only_function<void(T)> done) {
  run_on(worker_, std::move(work), std::move(done));
}

template <class T>
void HostDevices::run_on(asio::thread_pool& pool, std::move_only_function<T()> work,
                         std::move_only_function<void(T)> done) {
  asio::post(pool,
             [this, guard = asio::make_work_guard(io_), work = std::move(work), done = std::move(done)]() mutable {
               asio::post(io_, [result = work(), done = std::move(done)]() mutable { done(std::move(result)); });
             });
}

void HostDevices::probe(const Bdf& bdf, std::move_only_function<void(Result<core::Identity>)> done) {
  using Probed = std::pair<core::Identity, bool>;
  run<Result<Probed>>(
      [this, bdf]() -> Result<Probed> {
        const auto function = TRY(host::read_function(root_, bdf));
        if (function.is_bridge()) return fail(Errc::not_permitted, "{} is a bridge: it cannot be lent", to_string(bdf));
        auto identity = identity_of(root_, function);
        const bool more = wants_vpd(root_, bdf, identity);
        return Probed{std::move(identity), more};
      },
      [this, bdf, done = std::move(done)](Result<Probed> probed) mutable {
        if (!probed) return done(std::unexpected(probed.error()));
        if (!probed->second) return done(std::move(probed->first));
        probe_vpd(bdf, std::move(probed->first), std::move(done));
      });
}

/// Apart from the worker: it may take seconds.
void HostDevices::probe_vpd(const Bdf& bdf, core::Identity identity,
                            std::move_only_function<void(Result<core::Identity>)> done) {
  run_on<std::optional<std::string>>(
      reader_, [root = root_, bdf] { return host::vpd_serial(root, bdf); },
      [identity = std::move(identity), done = std::move(done)](const std::optional<std::string>& serial) mutable {
        if (serial) identity.who.serials[core::vpd_serial] = *serial;
        done(std::move(identity));
      });
}

void HostDevices::find(std::move_only_function<void(std::vector<core::Seen>)> done) {
  run<std::vector<core::Seen>>(
      [this] {
        std::vector<core::Seen> seen;
        for (const auto& bdf : host::list_functions(root_).value_or(std::vector<Bdf>{})) {
          const auto serial = host::nvme_serial(root_, bdf);
          const auto function = serial ? host::read_function(root_, bdf) : fail(Errc::no_such_device, "");
          if (function && !function->physical_function)
            seen.push_back({to_string(bdf), {kind_of(*function), {{core::nvme_serial, *serial}}}});
        }
        return seen;
      },
      std::move(done));
}

void HostDevices::take(const Bdf& bdf, core::Who who, bool force, std::vector<std::string> companions,
                       std::move_only_function<void(Result<core::Who>)> done) {
  std::set<Bdf> added;
  for (const auto& address : companions)
    if (const auto companion = parse_bdf(address)) added.insert(*companion);
  run<Result<core::Who>>(
      [this, bdf, who = std::move(who), force, added = std::move(added)] { return take_now(bdf, who, force, added); },
      std::move(done));
}

Result<core::Who> HostDevices::take_now(const Bdf& bdf, const core::Who& who, bool force,
                                        const std::set<Bdf>& companions) {
  if (!binder_)
    return fail(Errc::not_permitted,
                "{} stays with its driver: this node has no state directory, so a crash could not "
                "be undone",
                to_string(bdf));
  const auto function = TRY(host::read_function(root_, bdf));
  auto there = who_of(root_, function);
  TRY(check_same(who, there));
  TRY(check_asked(who, there, function.driver.value_or("")));
  TRY(host::check_lendable(root_, function));
  auto& group = groups_[*function.iommu_group];
  if (group.bound.empty()) {
    if (const auto conflicts = host::group_conflicts(root_, function, companions); !conflicts.empty())
      return fail(Errc::not_permitted, "{} cannot be made available: {}", host::short_name(bdf), joined(conflicts));
    const auto free = [this, force, bdf, number = *function.iommu_group](const Bdf& other) -> Result<void> {
      if (force && other == bdf) return {};
      const auto now = TRY(host::read_function(root_, other));
      const auto uses = host::uses_of(root_, now);
      if (uses.empty()) return {};
      return fail(Errc::busy, "{}{} is in use: {}", host::short_name(other),
                  other == bdf ? "" : fmt::format(" shares IOMMU group {} and", number), joined(uses));
    };
    std::vector<Bdf> all{bdf};
    for (const auto& member : function.group_members)
      if (member != bdf && companions.contains(member)) all.push_back(member);
    for (const auto& member : all) TRY(free(member));
    if (auto taken = binder_->take(all, free); !taken) return std::unexpected(as_busy(taken.error()));
    group.bound = std::move(all);
  }
  group.taken.insert(bdf);
  return there;
}

void HostDevices::give_back(const Bdf& bdf, std::move_only_function<void(Result<std::string>)> done) {
  run<Result<std::string>>([this, bdf] { return give_back_now(bdf); }, std::move(done));
}

Result<std::string> HostDevices::give_back_now(const Bdf& bdf) {
  const auto found = std::ranges::find_if(groups_, [&bdf](const auto& g) { return g.second.taken.contains(bdf); });
  if (found != groups_.end()) {
    auto& group = found->second;
    if (group.taken.size() == 1) {
      if (auto given = binder_->give_back(group.bound); !given) return std::unexpected(as_busy(given.error()));
      groups_.erase(found);
    } else {
      group.taken.erase(bdf);
    }
  }
  const auto function = host::read_function(root_, bdf);
  return function ? function->driver.value_or("") : "";
}

void HostDevices::give_back_all(std::move_only_function<void(std::vector<Error>)> done) {
  run<std::vector<Error>>(
      [this] {
        groups_.clear();
        return binder_ ? binder_->give_back_all() : std::vector<Error>{};
      },
      std::move(done));
}

void HostDevices::scan(std::vector<core::FilterRule> rules, std::vector<core::Added> added,
                       std::move_only_function<void(Result<Matches>)> done) {
  run<Result<Matches>>([this, rules = std::move(rules), added = std::move(added)] { return scan_now(rules, added); },
                       std::move(done));
}

Result<HostDevices::Matches> HostDevices::scan_now(const std::vector<core::FilterRule>& rules,
                                                   const std::vector<core::Added>& added) const {
  std::vector<host::Filter> filters;
  for (const auto& rule : rules) filters.push_back(TRY(host::Filter::parse(rule.ids, rule.slot)));
  Matches matches(rules.size());
  const auto match = [&](const std::string& address, const host::Function& function, bool has_slot) {
    for (std::size_t i = 0; i < filters.size(); ++i)
      if ((has_slot || rules[i].slot.empty()) && filters[i].matches(function)) matches[i].push_back(address);
  };
  std::set<std::string> seen;
  for (const auto& bdf : TRY(host::list_functions(root_))) {
    const auto function = host::read_function(root_, bdf);
    if (!function || function->is_bridge()) continue; // gone again, or never lent
    match(*seen.insert(to_string(bdf)).first, *function, true);
  }
  for (const auto& device : added) { // behind sockets, or pulled out
    if (seen.contains(device.address)) continue;
    const auto bdf = parse_bdf(device.address);
    host::Function function{};
    function.bdf = bdf.value_or(Bdf{});
    function.vendor = device.vendor, function.device = device.device, function.class_code = device.class_code;
    match(device.address, function, bdf.has_value());
  }
  return matches;
}

void HostDevices::read_config(const Bdf& bdf, std::move_only_function<void(Result<std::vector<std::byte>>)> done) {
  run<Result<std::vector<std::byte>>>([this, bdf] { return host::read_config(root_, bdf); }, std::move(done));
}

void HostDevices::holders(const Bdf& bdf, std::move_only_function<void(std::string)> done) {
  run<std::string>(
      [this, bdf]() -> std::string {
        const auto function = host::read_function(root_, bdf);
        return function ? joined(host::vfio_holders(root_, *function)) : "";
      },
      std::move(done));
}

} // namespace smartio
