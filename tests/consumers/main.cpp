// A program outside the tree: lends itself the device at ADDRESS (vfio-user:PATH), borrows it, and prints the first
// register. Usage: consumer RUN-DIR ADDRESS
#include <smartio/smartio.hpp>

#include <cstdio>
#include <cstdlib>
#include <iostream>

namespace {

template <class T> T need(smartio::Result<T> result) {
  if (result) return std::move(*result);
  std::cerr << to_string(result.error()) << '\n';
  std::exit(1);
}

} // namespace

int main(int, char** arguments) {
  using namespace smartio;
  const Node node = need(Node::start({.node = NodeId{8}, .listen = {}, .run_dir = arguments[1], .state_dir = {}}));
  const DeviceId id = need(node.add(arguments[2]));
  if (const auto done = node.make_available(id); !done) std::cerr << to_string(done.error()) << '\n';
  const Device device = need(node.borrow(id));
  const BarMapping registers = need(device.map_bar(0));
  std::cout << version() << ' ' << id << " capabilities " << std::hex << need(registers.read(0, 8)) << '\n';
}
