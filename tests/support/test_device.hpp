// A device made for tests, behind a vfio-user socket: it remembers what it was told, and misbehaves when asked to.
#pragma once

#include "device.hpp"
#include "fd.hpp"
#include "mapping.hpp"

#include <array>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <future>
#include <map>
#include <string>
#include <thread>

namespace testing {

/// BAR 0 of 16 KiB, pages 1 and 2 mapped, the rest trapped; BAR 2 of 4 KiB, trapped; 256 bytes of configuration space;
/// 4 MSI-X vectors (or what else `interrupts` says); ERR. Lives on one thread.
class TestDevice final : public smartio::vfio::Device {
public:
  static constexpr std::uint64_t page = 4096;

  TestDevice();
  void submit(smartio::vfio::Request request, smartio::vfio::Completion done) override;
  void on_lost(std::move_only_function<void()>) override {}

  /// Does what the end of a connection does to a device: windows and interrupts are gone.
  void client_left();
  void fire(unsigned vector); ///< signals a vector's eventfd, if it has one
  void signal_error();        ///< signals the ERR interrupt
  void confirm_ignored();     ///< answers unmaps that `ignore` held back

  // How it misbehaves.
  std::move_only_function<int(const smartio::vfio::Request&)> refuse;  ///< errno to answer with, 0: carry out
  std::move_only_function<bool(const smartio::vfio::Request&)> ignore; ///< never to be answered
  std::move_only_function<void(smartio::vfio::RegionInfo&)> twist;     ///< changes the answer about BAR 0

  /// What it does after a write to a region, beyond storing it.
  std::move_only_function<void(const smartio::vfio::RegionWrite&)> written;

  // What it knows.
  struct Window {
    std::uint64_t size;
    smartio::Access access;
    smartio::Mapping memory;
  };
  std::map<std::uint64_t, Window> windows;
  std::map<unsigned, smartio::Fd> vectors;
  smartio::Fd error_event;
  smartio::Fd registers; ///< the file behind BAR 0
  smartio::Mapping bar0;
  std::vector<std::byte> bar2 = std::vector<std::byte>(page), config = std::vector<std::byte>(256);
  std::uint32_t interrupts = smartio::vfio::msix; ///< the only kind it has
  unsigned vector_count = 4, unmasks = 0;
  std::uint32_t flags = smartio::vfio::device_flag_pci | smartio::vfio::device_flag_reset; ///< of GetInfo
  std::vector<smartio::IovaRange> usable;                                                  ///< of GetInfo
  std::uint32_t msix_flags = smartio::vfio::irq_flag_eventfd;
  unsigned region_accesses = 0, resets = 0, unmap_alls = 0, msix_placeholders = 0, msix_disables = 0;

private:
  smartio::vfio::Reply carry_out(smartio::vfio::Request& request);
  smartio::vfio::Reply region_info(std::uint32_t index);
  smartio::vfio::Reply set_irqs(smartio::vfio::SetIrqs& request);
  smartio::vfio::Reply map(const smartio::vfio::DmaMap& request);
  smartio::vfio::Reply unmap(const smartio::vfio::DmaUnmap& request);
  std::span<std::byte> region(std::uint32_t index);
  std::vector<smartio::vfio::Completion> ignored_;
};

/// Serves a TestDevice on a thread of its own.
class TestServer {
public:
  explicit TestServer(std::string name);
  ~TestServer();

  std::string path() const { return path_; }
  std::string address() const { return "vfio-user:" + path_; }

  /// Runs `work(device)` on the server's thread, and gives its result.
  template <class Work> auto with(Work work) {
    std::packaged_task<decltype(work(std::declval<TestDevice&>()))()> task([this, &work] { return work(*device_); });
    auto result = task.get_future();
    run(std::packaged_task<void()>([&task] { task(); }));
    return result.get();
  }

  /// What the client answers to DMA_READ.
  std::expected<std::vector<std::byte>, int> dma_read(smartio::Iova iova, std::uint32_t count);

  void drop_client();                                      ///< closes the connection
  bool wait_until_left(std::chrono::milliseconds at_most); ///< for the client to close the connection

private:
  struct State;
  void run(std::packaged_task<void()> task);
  std::string path_;
  std::shared_ptr<TestDevice> device_;
  std::unique_ptr<State> state_;
};

} // namespace testing
