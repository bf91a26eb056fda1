// A program with one thread and a loop that must not stand still: borrows a disk, looks at its registers, gives it
// back. Prints how often a call of the library kept the loop waiting for more than 5 ms, and how often it went round.
// Usage: poll_loop RUN-DIR DEVICE
#include <smartio/smartio.hpp>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <poll.h>
#include <sys/resource.h>

using namespace smartio;

namespace {

unsigned stalls = 0;

/// Times at which this thread gave up the processor by itself: others may take it away at any time, for as long as they
/// like, and that is no fault of the library's.
long waits() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

template <class Function> auto timed(Function call) {
  const auto before = waits();
  const auto start = std::chrono::steady_clock::now();
  auto result = call();
  const bool long_ago = std::chrono::steady_clock::now() - start > std::chrono::milliseconds{5};
  if (long_ago && waits() != before) ++stalls;
  return result;
}

template <class T> T need(Result<T> result) {
  if (!result) {
    std::cerr << to_string(result.error()) << '\n';
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

} // namespace

int main(int, char** arguments) {
  const auto node = need(Node::attach(arguments[1]));
  const auto id = need(parse_device_id(arguments[2]));
  auto events = need(node.events());
  auto borrowing = need(timed([&] { return async([node, id] { return node.borrow(id); }); }));
  Call<Result<void>> giving_back;
  unsigned rounds = 0;
  for (bool over = false; !over; ++rounds) {
    pollfd waiting[]{{events.fd(), POLLIN, 0},
                     {borrowing ? borrowing.fd() : -1, POLLIN, 0},
                     {giving_back ? giving_back.fd() : -1, POLLIN, 0}};
    ::poll(waiting, 3, 1);
    if (waiting[0].revents != 0) (void)need(timed([&] { return events.next(); }));
    if (waiting[1].revents != 0) {
      auto device = need(timed([&] { return borrowing.get(); }));
      giving_back = need(timed([&] {
        return async([device = std::move(device)]() -> Result<void> {
          const auto registers = device.map_bar(0);
          if (!registers) return std::unexpected(registers.error());
          if (const auto read = registers->read(0, 8); !read) return std::unexpected(read.error());
          return device.give_back();
        });
      }));
    }
    if (waiting[2].revents != 0) {
      need(timed([&] { return giving_back.get(); }));
      over = true;
    }
  }
  std::cout << "stalls " << stalls << " rounds " << rounds << '\n';
}
