#include "test_device.hpp"

#include "user/server.hpp"

#include <boost/asio/post.hpp>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <unistd.h>

namespace testing {

using namespace smartio;
using namespace smartio::vfio;

TestDevice::TestDevice()
    : registers(make_memfd("test-registers", 4 * page).value()),
      bar0(Mapping::map(registers.get(), 0, 4 * page).value()) {}

void TestDevice::submit(Request request, Completion done) {
  if (ignore && ignore(request)) {
    ignored_.push_back(std::move(done));
    return;
  }
  const int number = refuse ? refuse(request) : 0;
  done(number != 0 ? Reply(std::unexpected(number)) : carry_out(request));
}

Reply TestDevice::carry_out(Request& request) {
  if (std::get_if<GetInfo>(&request)) return Info{flags, region_count, irq_count, usable};
  if (const auto* info = std::get_if<GetRegionInfo>(&request)) return region_info(info->index);
  if (const auto* irq = std::get_if<GetIrqInfo>(&request))
    return irq->index == interrupts ? IrqInfo{msix_flags, vector_count}
                                    : IrqInfo{irq_flag_eventfd, irq->index == err ? 1U : 0U};
  if (auto* irqs = std::get_if<SetIrqs>(&request)) return set_irqs(*irqs);
  if (const auto* dma = std::get_if<DmaMap>(&request)) return map(*dma);
  if (const auto* dma = std::get_if<DmaUnmap>(&request)) return unmap(*dma);
  if (std::get_if<Reset>(&request)) {
    ++resets;
    return Done{};
  }
  ++region_accesses;
  if (const auto* read = std::get_if<RegionRead>(&request)) {
    const auto bytes = region(read->region);
    if (!in_range(read->offset, read->count, bytes.size())) return std::unexpected(EINVAL);
    const auto part = bytes.subspan(read->offset, read->count);
    return Data{{part.begin(), part.end()}};
  }
  const auto& write = std::get<RegionWrite>(request);
  const auto bytes = region(write.region);
  if (!in_range(write.offset, write.data.size(), bytes.size())) return std::unexpected(EINVAL);
  std::ranges::copy(write.data, bytes.begin() + static_cast<std::ptrdiff_t>(write.offset));
  if (written) written(write);
  return Done{};
}

std::span<std::byte> TestDevice::region(std::uint32_t index) {
  if (index == 0) return bar0.bytes();
  if (index == 2) return bar2;
  if (index == config_region) return config;
  return {};
}

Reply TestDevice::region_info(std::uint32_t index) {
  constexpr std::uint32_t readable = region_flag_read | region_flag_write;
  if (index != 0) {
    const std::uint64_t size = region(index).size();
    return RegionInfo{.flags = size == 0 ? 0 : readable, .size = size, .fd = {}};
  }
  RegionInfo info{.flags = readable | region_flag_mmap, .size = 4 * page, .areas = {{page, 2 * page}}, .fd = {}};
  info.fd = registers.duplicate().value();
  if (twist) twist(info);
  return info;
}

Reply TestDevice::set_irqs(SetIrqs& request) {
  if (request.index == err && !request.eventfds.empty()) error_event = std::move(request.eventfds[0]);
  if (request.index != interrupts) return Done{};
  if ((request.flags & irq_action_unmask) != 0) {
    ++unmasks;
    return Done{};
  }
  if ((request.flags & irq_data_none) != 0 && request.count == 0) {
    ++msix_disables;
    vectors.clear();
  } else if (request.eventfds.empty()) {
    msix_placeholders += request.count > 1 ? 1 : 0;
    for (std::uint32_t vector = 0; vector < request.count; ++vector) vectors.erase(request.start + vector);
  }
  for (std::uint32_t i = 0; i < request.eventfds.size(); ++i)
    vectors[request.start + i] = std::move(request.eventfds[i]);
  return Done{};
}

Reply TestDevice::map(const DmaMap& request) {
  auto memory = Mapping::map(request.fd.get(), request.offset, request.size);
  if (!memory) return std::unexpected(EINVAL);
  windows[std::to_underlying(request.iova)] = {request.size, request.access, std::move(*memory)};
  return Done{};
}

Reply TestDevice::unmap(const DmaUnmap& request) {
  if (request.all) {
    ++unmap_alls;
    windows.clear();
    return Unmapped{request.size};
  }
  const auto window = windows.extract(std::to_underlying(request.iova));
  return window.empty() ? std::unexpected(ENOENT) : Reply(Unmapped{window.mapped().size});
}

void TestDevice::client_left() {
  windows.clear();
  vectors.clear();
  error_event.reset();
  ignored_.clear();
}

void TestDevice::fire(unsigned vector) {
  if (const auto found = vectors.find(vector); found != vectors.end()) signal_eventfd(found->second.get());
}

void TestDevice::confirm_ignored() {
  for (auto& done : std::exchange(ignored_, {})) done(Unmapped{0});
}

void TestDevice::signal_error() { signal_eventfd(error_event.get()); }

struct TestServer::State {
  boost::asio::io_context io{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> stay{io.get_executor()};
  std::unique_ptr<user::Server> server;
  bool has_client = false; // the server's thread only
  std::mutex mutex;
  std::condition_variable changed;
  unsigned left = 0;
  std::thread thread;

  void client_left() {
    has_client = false;
    const std::lock_guard lock(mutex);
    ++left;
    changed.notify_all();
  }
};

TestServer::TestServer(std::string name)
    : path_("/tmp/smartio-test-" + name + "-" + std::to_string(::getpid())), device_(std::make_shared<TestDevice>()),
      state_(std::make_unique<State>()) {
  State* state = state_.get();
  const auto device = device_;
  auto accept = [state, device](const ::ucred&) -> std::expected<std::shared_ptr<vfio::Device>, int> {
    if (std::exchange(state->has_client, true)) return std::unexpected(EBUSY);
    return device;
  };
  auto closed = [state, device] {
    device->client_left();
    state->client_left();
  };
  state->server = user::Server::listen(state->io, path_, std::move(accept), std::move(closed)).value();
  state->thread = std::thread([state] { state->io.run(); });
}

TestServer::~TestServer() {
  boost::asio::post(state_->io, [this] {
    state_->server.reset();
    state_->stay.reset();
  });
  state_->thread.join();
}

void TestServer::run(std::packaged_task<void()> task) { boost::asio::post(state_->io, std::move(task)); }

std::expected<std::vector<std::byte>, int> TestServer::dma_read(Iova iova, std::uint32_t count) {
  std::promise<std::expected<std::vector<std::byte>, int>> answer;
  with([&](TestDevice&) {
    state_->server->connection()->dma_read(iova, count, [&answer](Reply reply) {
      if (reply)
        answer.set_value(std::get<Data>(std::move(*reply)).bytes);
      else
        answer.set_value(std::unexpected(reply.error()));
    });
    return true;
  });
  return answer.get_future().get();
}

void TestServer::drop_client() {
  with([this](TestDevice& device) {
    if (auto connection = state_->server->connection()) connection->close();
    device.client_left();
    state_->has_client = false;
  });
}

bool TestServer::wait_until_left(std::chrono::milliseconds at_most) {
  std::unique_lock lock(state_->mutex);
  return state_->changed.wait_for(lock, at_most, [this] { return state_->left > 0; });
}

} // namespace testing
