#include "bus_errors.hpp"

#include "page.hpp"
#include "result.hpp"

#include <smartio/bus_errors.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <sys/mman.h>

namespace smartio {
namespace {

/// Read by a signal handler while other threads change it: no lock, no allocation.
struct Slot {
  std::atomic<std::uintptr_t> first = 0; ///< 0: free
  std::atomic<std::uintptr_t> end = 0;   ///< 0: being filled
};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free);
constinit std::array<Slot, 4096> slots;

/// What SIGBUS did before; written before the handler is set.
struct sigaction previous = {};

bool guarded(std::uintptr_t address) {
  for (const Slot& slot : slots) {
    const auto first = slot.first.load();
    const auto end = slot.end.load();
    // Read again, since both may belong to different areas otherwise.
    if (address >= first && address < end && slot.first.load() == first) return true;
  }
  return false;
}

/// As Mapping::replace_by_ones, with nothing but system calls, and only what was touched: a block of registers may be
/// larger than memory.
bool replace_page(std::uintptr_t address) {
  void* ones = ::mmap(nullptr, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (ones == MAP_FAILED) return false;
  std::memset(ones, 0xff, page_size);
  void* page = reinterpret_cast<void*>(address - address % page_size);
  if (::mremap(ones, page_size, page_size, MREMAP_MAYMOVE | MREMAP_FIXED, page) != MAP_FAILED) return true;
  ::munmap(ones, page_size);
  return false;
}

/// Whether a load or store of this thread is behind the signal, which happens again when the handler returns.
bool is_fault(const siginfo_t& info) { return info.si_code > 0 && info.si_code != BUS_MCEERR_AO; }

void pass_on(int number, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0) return previous.sa_sigaction(number, info, context);
  const bool ignored = previous.sa_handler == SIG_IGN;
  if (!ignored && previous.sa_handler != SIG_DFL) return previous.sa_handler(number);
  if (ignored && !is_fault(*info)) return;
  std::signal(number, SIG_DFL); // the kernel lets no fault be ignored
  if (!is_fault(*info)) std::raise(number);
}

void bus_error(int number, siginfo_t* info, void* context) {
  const int kept = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  const bool ours = info->si_code == BUS_ADRERR && guarded(address) && replace_page(address);
  errno = kept;
  if (!ours) pass_on(number, info, context);
}

Result<void> set_handler() {
  if (::sigaction(SIGBUS, nullptr, &previous) != 0) return fail_errno(errno, "ask for the handler of SIGBUS");
  struct sigaction ours = {};
  ours.sa_sigaction = bus_error;
  ours.sa_mask = previous.sa_mask;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | (previous.sa_flags & (SA_NODEFER | SA_RESTART));
  if (::sigaction(SIGBUS, &ours, nullptr) != 0) return fail_errno(errno, "set the handler of SIGBUS");
  return {};
}

} // namespace

namespace detail {

Result<GuardedArea> GuardedArea::add(std::span<std::byte> bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(bytes.data());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    std::uintptr_t free = 0;
    if (!slots[i].first.compare_exchange_strong(free, first)) continue;
    slots[i].end.store(first + bytes.size());
    return GuardedArea(i);
  }
  return fail_errno(ENOBUFS, fmt::format("map more than {} areas of registers", slots.size()));
}

GuardedArea::~GuardedArea() {
  if (slot_ == none) return;
  slots[slot_].end.store(0);
  slots[slot_].first.store(0);
}

} // namespace detail

inline namespace v0 {

Result<void> guard_bus_errors() {
  static std::mutex mutex;
  static bool done = false;
  const std::scoped_lock lock(mutex);
  if (done) return {};
  auto set = set_handler();
  done = set.has_value();
  return set;
}

} // namespace v0
} // namespace smartio
