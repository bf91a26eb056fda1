// Registers whose mapping ends under a program: the file behind them is truncated, which gives the SIGBUS that the
// kernel's VFIO gives for a device that was pulled out. Each case is a process of its own.
#include "bus_errors.hpp"
#include "catch.hpp"
#include "checks.hpp"
#include "mapping.hpp"
#include "test_device.hpp"

#include <array>
#include <csignal>
#include <functional>
#include <smartio/smartio.hpp>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace smartio;
using namespace testing;

namespace {

constexpr std::uint64_t page = TestDevice::page;

/// How a child ends that does `work`: its exit status, or minus the signal that killed it. It has the default action
/// for SIGBUS, whatever a sanitizer does with it.
int end_of(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGBUS, SIG_DFL);
    ::_exit(work());
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/// A file of memory that can shrink.
Fd make_file(std::uint64_t size) {
  Fd file(::memfd_create("bus-errors", MFD_CLOEXEC));
  REQUIRE(::ftruncate(file.get(), static_cast<off_t>(size)) == 0);
  return file;
}

/// A device in use, pulled out at will.
struct Pulled {
  explicit Pulled(const char* name)
      : server(name), device((give_registers(), open_device(server.address()).value())),
        bar(device.map_bar(0).value()) {}
  void give_registers() {
    server.with([this](TestDevice& model) {
      model.twist = [this](vfio::RegionInfo& info) { info.fd = registers.duplicate().value(); };
    });
  }
  void pull_out() { REQUIRE(::ftruncate(registers.get(), 0) == 0); }
  volatile std::uint32_t& word(std::size_t offset) {
    return *reinterpret_cast<volatile std::uint32_t*>(bar.mapped(offset, 4));
  }
  Fd registers = make_file(4 * page);
  TestServer server;
  Device device;
  BarMapping bar;
};

/// Memory of this process that gives SIGBUS when it is touched.
volatile std::uint32_t* trap(void* at = nullptr, std::size_t size = page) {
  const Fd file = make_file(0);
  void* memory = ::mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | (at != nullptr ? MAP_FIXED : 0), file.get(), 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::uint32_t*>(memory);
}

constexpr int reached_previous = 7;

} // namespace

TEST_CASE("without the guard a program dies of registers that end") {
  CHECK(end_of([] {
          Pulled use("unguarded");
          use.pull_out();
          return static_cast<int>(use.word(page) & 1);
        }) == -SIGBUS);
}

TEST_CASE("with the guard, registers that end give ones, and the program goes on") {
  CHECK(end_of([] {
          Pulled use("guarded");
          if (!guard_bus_errors() || !guard_bus_errors()) return 1;
          const auto later = use.device.map_bar(0); // mapped after it, where `use.bar` was before
          use.word(page) = 5;
          if (use.word(page) != 5) return 2;
          use.pull_out();
          errno = 99;
          if (use.word(page + 8) != UINT32_MAX || errno != 99) return 3;
          use.word(2 * page) = 9; // a store is the first to touch this page
          if (use.word(2 * page + 4) != UINT32_MAX) return 4;
          if (!later || later->read(page, 8) != UINT64_MAX) return 5;
          return use.device.read_config(0, 4) ? 0 : 6;
        }) == 0);
}

TEST_CASE("with the guard, memory of the program's own is no register") {
  CHECK(end_of([] {
          Pulled use("own");
          if (!guard_bus_errors()) return 1;
          return static_cast<int>(*trap() & 1);
        }) == -SIGBUS);
}

TEST_CASE("memory right behind registers is no register") {
  for (const bool behind : {false, true})
    CHECK(end_of([behind] {
            auto* words = trap(nullptr, 2 * page);
            const auto registers =
                detail::GuardedArea::add({reinterpret_cast<std::byte*>(const_cast<std::uint32_t*>(words)), page});
            if (words == nullptr || !registers || !guard_bus_errors()) return 1;
            return words[behind ? page / 4 : page / 4 - 1] == UINT32_MAX ? 0 : 2;
          }) == (behind ? -SIGBUS : 0));
}

TEST_CASE("a memory error of the processor is not taken for registers that end") {
  CHECK(end_of([] {
          std::signal(SIGBUS, [](int) { ::_exit(reached_previous); });
          auto* words = const_cast<std::uint32_t*>(trap());
          const auto registers = detail::GuardedArea::add({reinterpret_cast<std::byte*>(words), page});
          if (words == nullptr || !registers || !guard_bus_errors()) return 1;
          siginfo_t info = {};
          info.si_signo = SIGBUS;
          info.si_code = BUS_MCEERR_AR;
          info.si_addr = words;
          return ::syscall(SYS_rt_sigqueueinfo, ::getpid(), SIGBUS, &info) == 0 ? 2 : 3;
        }) == reached_previous);
}

TEST_CASE("the guard runs on the stack that the program has for signals") {
  CHECK(end_of([] {
          static std::array<std::byte, 65536> stack;
          const stack_t ours{.ss_sp = stack.data(), .ss_flags = 0, .ss_size = stack.size()};
          ::sigaltstack(&ours, nullptr);
          std::signal(SIGBUS, [](int) {
            // Not a variable's address: the address sanitizer keeps those elsewhere.
            const auto* here = static_cast<const std::byte*>(__builtin_frame_address(0));
            ::_exit(here >= stack.data() && here < stack.data() + stack.size() ? 0 : 2);
          });
          if (!guard_bus_errors()) return 1;
          return static_cast<int>(*trap() & 1) + 3;
        }) == 0);
}

TEST_CASE("addresses that were registers once are guarded no longer") {
  CHECK(end_of([] {
          Pulled use("once");
          if (!guard_bus_errors()) return 1;
          volatile std::byte* at = nullptr;
          {
            const auto other = use.device.map_bar(0);
            if (!other) return 2;
            at = other->mapped(page, 4);
          }
          const auto* memory = trap(const_cast<std::byte*>(at));
          return memory == nullptr ? 3 : static_cast<int>(*memory & 1);
        }) == -SIGBUS);
}

TEST_CASE("the handler before the guard gets every other SIGBUS") {
  for (const bool sent : {false, true})
    CHECK(end_of([sent] {
            std::signal(SIGBUS, [](int) { ::_exit(reached_previous); });
            if (!guard_bus_errors()) return 1;
            if (sent) return std::raise(SIGBUS);
            return static_cast<int>(*trap() & 1);
          }) == reached_previous);
}

TEST_CASE("a SIGBUS that is sent does what it did before the guard") {
  for (const auto action : {SIG_DFL, SIG_IGN})
    CHECK(end_of([action] {
            std::signal(SIGBUS, action);
            if (!guard_bus_errors()) return 1;
            std::raise(SIGBUS);
            return 0;
          }) == (action == SIG_DFL ? -SIGBUS : 0));
}

TEST_CASE("what is guarded ends at the page where the registers end, on both sides") {
  constexpr int ones = 1, other = 2;
  const auto touch = [](std::size_t at) {
    return end_of([at] {
      if (!guard_bus_errors()) return 3;
      void* room = ::mmap(nullptr, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      auto* first = static_cast<std::byte*>(room);
      for (std::size_t i = 0; i < 3; ++i)
        if (trap(first + i * page) == nullptr) return 4;
      const auto area = detail::GuardedArea::add({first + page, page});
      if (!area) return 5;
      return *reinterpret_cast<volatile std::uint8_t*>(first + at) == 0xff ? ones : other;
    });
  };
  CHECK(touch(page - 1) == -SIGBUS);
  CHECK(touch(page) == ones);
  CHECK(touch(2 * page - 1) == ones);
  CHECK(touch(2 * page) == -SIGBUS);
}

TEST_CASE("thousands of areas are guarded; one more is refused, until one of them has gone") {
  std::vector<detail::GuardedArea> areas;
  const auto add = [](std::uintptr_t number) {
    return detail::GuardedArea::add({reinterpret_cast<std::byte*>((number + 1) << 40), page}); // nobody's addresses
  };
  for (std::uintptr_t i = 0; i < 4096; ++i) {
    auto area = add(i);
    REQUIRE(area);
    areas.push_back(std::move(*area));
  }
  CHECK(fails_with(add(4096), ENOBUFS));
  areas.pop_back();
  CHECK(add(4096));
}

TEST_CASE("a handler before the guard that wants to know gets what the kernel said of a fault that is its own") {
  CHECK(end_of([] {
          static volatile std::uint32_t* volatile at = nullptr;
          struct sigaction theirs = {};
          theirs.sa_flags = SA_SIGINFO;
          theirs.sa_sigaction = [](int number, siginfo_t* info, void* context) {
            const bool told = number == SIGBUS && info->si_addr == const_cast<std::uint32_t*>(at) && context != nullptr;
            ::_exit(told ? reached_previous : 1);
          };
          ::sigaction(SIGBUS, &theirs, nullptr);
          if (!guard_bus_errors()) return 2;
          at = trap();
          return static_cast<int>(*at & 1);
        }) == reached_previous);
}
