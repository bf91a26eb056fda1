// The drivers of bridges on devices that do not simply do at once what is asked.
#include "ntb_ends.hpp"

#include <deque>

using namespace smartio;
using namespace smartio::testing;

TEST_CASE("what is asked for at once takes effect one after the other") {
  /// Answers when it is told to.
  struct Slow final : vfio::Device {
    explicit Slow(std::shared_ptr<vfio::Device> fast) : device(std::move(fast)) {}
    void submit(vfio::Request request, vfio::Completion done) override {
      device->submit(std::move(request), [this, done = std::move(done)](vfio::Reply reply) mutable {
        answers.push_back([done = std::move(done), reply = std::move(reply)]() mutable { done(std::move(reply)); });
      });
    }
    void on_lost(std::move_only_function<void()>) override {}
    void answer_all() {
      for (; !answers.empty(); answers.pop_front()) answers.front()();
    }
    std::shared_ptr<vfio::Device> device;
    std::deque<std::move_only_function<void()>> answers;
  };
  Ends ends(any_chip());
  const auto slow = std::make_shared<Slow>(ends.pair.b.device);
  std::shared_ptr<Adapter> adapter;
  Adapter::open(slow, [&adapter](auto opened) { adapter = opened.value(); });
  slow->answer_all();
  REQUIRE(adapter);

  std::vector<int> order;
  const auto done = [&order](int number) {
    return [&order, number](Result<void> result) { order.push_back(result ? number : -number); };
  };
  adapter->enable_link(done(1));
  adapter->open_window(0, Iova{NtbHost::memory_at + window}, window, done(2));
  adapter->recover(done(3));
  adapter->open_window(0, memory, window, done(4));
  adapter->close_window(1, [&](Result<void> result) {
    done(5)(std::move(result));
    adapter->open_window(1, memory, window, done(6));
  });
  slow->answer_all();
  CHECK(order == std::vector{1, 2, 3, 4, 5, 6});
  ends.pair.b.memory()[0] = std::byte{0x12};
  CHECK(ends.pair.a.read(2, 0, 1) == 0x12);
  CHECK(ends.pair.a.read(4, 0, 1) == 0x12);
}

TEST_CASE("a kernel that accesses 64-bit registers in halves will do") {
  /// Linux before 6.10 cuts accesses to registers into pieces of 4 bytes (vfio_pci_rdwr.c).
  struct Halves final : vfio::Device {
    explicit Halves(std::shared_ptr<vfio::Device> device) : whole(std::move(device)) {}
    void submit(vfio::Request request, vfio::Completion done) override {
      const auto* read = std::get_if<vfio::RegionRead>(&request);
      const auto* write = std::get_if<vfio::RegionWrite>(&request);
      if (read != nullptr && read->count == 8) return read_halves(*read, std::move(done));
      if (write == nullptr || write->data.size() != 8) return whole->submit(std::move(request), std::move(done));
      const auto middle = write->data.begin() + 4;
      whole->submit(vfio::RegionWrite{write->region, write->offset, {write->data.begin(), middle}}, [](auto) {});
      whole->submit(vfio::RegionWrite{write->region, write->offset + 4, {middle, write->data.end()}}, std::move(done));
    }
    void read_halves(const vfio::RegionRead& read, vfio::Completion done) {
      vfio::Data both;
      for (const unsigned half : {0U, 4U})
        whole->submit(vfio::RegionRead{read.region, read.offset + half, 4}, [&both](vfio::Reply reply) {
          const auto& bytes = std::get<vfio::Data>(reply.value()).bytes;
          both.bytes.insert(both.bytes.end(), bytes.begin(), bytes.end());
        });
      done(std::move(both));
    }
    void on_lost(std::move_only_function<void()>) override {}
    std::shared_ptr<vfio::Device> whole;
  };
  NtbPair pair(any_chip(), false);
  pair.b.device = std::make_shared<Halves>(pair.b.device);
  End a(pair.a), b(pair.b);
  REQUIRE(did(*a.adapter, &Adapter::enable_link).has_value());
  REQUIRE(did(*b.adapter, &Adapter::enable_link).has_value());
  REQUIRE(did(*b.adapter, &Adapter::open_window, 0U, memory, window).has_value());
  REQUIRE(did(*b.adapter, &Adapter::enable_doorbells, std::uint64_t{0x8}).has_value());
  CHECK(pair.a.read(2, 0, 8) == 0);
  for (int i = 0; i < 2; ++i) {
    REQUIRE(did(*a.adapter, &Adapter::ring, 3U).has_value());
    CHECK(b.signalled(3));
    REQUIRE(did(*b.adapter, &Adapter::clear_doorbells, std::uint64_t{0x8}).has_value());
  }
}

TEST_CASE("a bridge that was pulled out is ENODEV, and its link is down") {
  /// As the kernel's VFIO reads what was pulled out.
  struct Pulled final : vfio::Device {
    void submit(vfio::Request request, vfio::Completion answer) override {
      const auto* read = std::get_if<vfio::RegionRead>(&request);
      if (present || read == nullptr) return device->submit(std::move(request), std::move(answer));
      answer(vfio::Data{Bytes(read->count, std::byte{0xff})});
    }
    void on_lost(std::move_only_function<void()>) override {}
    std::shared_ptr<vfio::Device> device;
    bool present = true;
  };
  Ends ends(any_chip());
  const auto pulled = std::make_shared<Pulled>();
  pulled->device = ends.pair.b.device;
  std::shared_ptr<Adapter> adapter;
  Adapter::open(pulled, [&adapter](auto opened) { adapter = opened.value(); });
  pulled->present = false;
  Error error;
  adapter->read_doorbells([&error](Result<std::uint64_t> bits) { error = bits ? Error{} : bits.error(); });
  CHECK(error.code == std::errc::no_such_device);
  CHECK_FALSE(told<fabric::ntb::Link>(*adapter, &Adapter::read_link).up);
}

TEST_CASE("an answer that is not as long as what was read is an error") {
  struct Short final : vfio::Device {
    void submit(vfio::Request request, vfio::Completion answer) override {
      const auto* read = std::get_if<vfio::RegionRead>(&request);
      if (length == 0 || read == nullptr) return device->submit(std::move(request), std::move(answer));
      answer(vfio::Data{Bytes(length)});
    }
    void on_lost(std::move_only_function<void()>) override {}
    std::shared_ptr<vfio::Device> device;
    std::size_t length = 0;
  };
  Ends ends(any_chip());
  const auto odd = std::make_shared<Short>();
  odd->device = ends.pair.b.device;
  std::shared_ptr<Adapter> adapter;
  Adapter::open(odd, [&adapter](auto opened) { adapter = opened.value(); });
  for (const std::size_t length : {1U, 3U, 5U}) {
    odd->length = length;
    std::optional<Result<std::uint32_t>> word;
    adapter->read_scratchpad(0, [&word](auto told) { word = std::move(told); });
    REQUIRE((word && !word->has_value()));
    CHECK(word->error().code == Errc::bad_request);
  }
}
