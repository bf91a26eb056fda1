// Windows that are too long for one message, on their way from a client to the lender.
#include "borrowed_device.hpp"
#include "any_client.hpp"
#include "catch.hpp"
#include "small_device.hpp"

#include <fcntl.h>
#include <optional>

using namespace smartio;
using namespace smartio::test;
using vfio::DmaMap;
using vfio::DmaUnmap;

namespace {

constexpr std::uint64_t page = 4096, gib = 1ULL << 30;

/// A borrowed device whose lender answers when it is told to.
struct Loan {
  std::shared_ptr<SmallDevice> lender = std::make_shared<SmallDevice>();
  std::shared_ptr<BorrowedDevice> device;
  bool closed = false;

  explicit Loan(std::chrono::milliseconds patience = std::chrono::hours(1))
      : device(std::make_shared<BorrowedDevice>(
            true, [] {}, patience)) {
    lender->manner = SmallDevice::Manner::later;
    OpenedDevice open;
    open.device = lender;
    open.close = [this](std::move_only_function<void()> done) {
      closed = true;
      done();
    };
    device->connected(std::move(open));
  }

  std::shared_ptr<std::optional<vfio::Reply>> ask(vfio::Request request) const {
    const auto reply = std::make_shared<std::optional<vfio::Reply>>();
    device->submit(std::move(request), [reply](vfio::Reply answer) {
      REQUIRE_FALSE(reply->has_value());
      *reply = std::move(answer);
    });
    return reply;
  }
  /// Memory that is no file, as a device's registers.
  std::shared_ptr<std::optional<vfio::Reply>> map_registers(std::uint64_t iova, std::uint64_t size) const {
    return ask(DmaMap{Iova{iova}, size, Access::read_write, Fd(::open("/dev/zero", O_RDWR | O_CLOEXEC)), page});
  }
  std::shared_ptr<std::optional<vfio::Reply>> map(std::uint64_t iova, std::uint64_t size) const {
    return ask(DmaMap{Iova{iova}, size, Access::read_write, make_memfd("memory", size + page).value(), page});
  }
  /// The one request that is at the lender.
  template <class T> T& asked() {
    REQUIRE(lender->waiting.size() == 1);
    auto* request = std::get_if<T>(&lender->waiting.front().first);
    REQUIRE(request);
    return *request;
  }
  void answer(int error = 0) {
    REQUIRE(lender->waiting.size() == 1);
    auto [request, done] = std::move(lender->waiting.front());
    lender->waiting.clear();
    const auto* unmap = std::get_if<DmaUnmap>(&request);
    if (error != 0) return done(std::unexpected(error));
    done(unmap != nullptr ? vfio::Reply(vfio::Unmapped{unmap->size}) : vfio::Reply(vfio::Done{}));
  }
  void check_map(std::uint64_t iova, std::uint64_t size, std::uint64_t offset) {
    const auto& piece = asked<DmaMap>();
    CHECK((piece.iova == Iova{iova} && piece.size == size && piece.offset == offset));
    CHECK((piece.fd && piece.access == Access::read_write));
  }
  void check_unmap(std::uint64_t iova, std::uint64_t size) {
    const auto& piece = asked<DmaUnmap>();
    CHECK((piece.iova == Iova{iova} && piece.size == size && !piece.all));
  }
};

} // namespace

TEST_CASE("a long window goes to the lender a GiB at a time, and comes back so") {
  Loan loan;
  const auto mapped = loan.map(gib - page, gib + 2 * page);
  loan.check_map(gib - page, page, page);
  loan.answer();
  loan.check_map(gib, gib, 2 * page);
  loan.answer();
  CHECK_FALSE(*mapped);
  loan.check_map(2 * gib, page, gib + 2 * page);
  loan.answer();
  CHECK((*mapped && **mapped));
  CHECK(loan.device->usage().windows == 1);
  const auto whole = loan.map(0, page); // another, short one
  loan.check_map(0, page, page);
  loan.answer();
  CHECK(loan.ask(DmaUnmap{Iova{gib}, gib})->value() == std::unexpected(EINVAL)); // would cut the client's
  const auto unmapped = loan.ask(DmaUnmap{Iova{0}, 3 * gib});
  for (const auto& [iova, size] : {std::pair{0UL, page}, {gib - page, page}, {gib, gib}, {2 * gib, page}}) {
    CHECK_FALSE(*unmapped);
    loan.check_unmap(iova, size);
    loan.answer();
  }
  CHECK(std::get<vfio::Unmapped>(unmapped->value().value()).size == gib + 3 * page);
  CHECK(loan.device->usage().windows == 0);
}

TEST_CASE("what a client asks for while its window is mapped in pieces waits for it, in order") {
  Loan loan;
  const auto mapped = loan.map(0, 2 * gib);
  const auto write = loan.ask(vfio::RegionWrite{0, 8, {std::byte{1}}});
  const auto again = loan.map(4 * gib, 2 * gib);
  const auto read = loan.ask(vfio::RegionRead{0, 8, 1});
  loan.answer();
  loan.answer();
  CHECK((*mapped && **mapped && !*write));
  REQUIRE(loan.lender->waiting.size() == 2);
  CHECK(std::holds_alternative<vfio::RegionWrite>(loan.lender->waiting[0].first));
  CHECK(std::holds_alternative<DmaMap>(loan.lender->waiting[1].first)); // for which the read waits
  loan.lender->complete();
  loan.answer();
  loan.answer();
  CHECK((*write && *again && !*read));
  CHECK(loan.asked<vfio::RegionRead>().count == 1);
}

TEST_CASE("a window of which a piece is refused leaves none at the lender, and only then fails") {
  Loan loan;
  const auto before = descriptors_now();
  const auto mapped = loan.map(0, 3 * gib);
  loan.answer();
  loan.answer();
  loan.answer(ENOMEM);
  for (const auto iova : {0UL, gib}) {
    CHECK_FALSE(*mapped);
    loan.check_unmap(iova, gib);
    loan.answer();
  }
  CHECK(mapped->value() == std::unexpected(ENOMEM));
  CHECK(loan.device->usage().windows == 0);
  CHECK(loan.lender->waiting.empty());
  CHECK_FALSE(loan.closed);
  CHECK(descriptors_now() == before); // the memory is the client's alone again
  const std::weak_ptr device = std::exchange(loan.device, {});
  CHECK(device.expired());
}

TEST_CASE("registers that were mapped whole are unmapped whole, also beside memory that was cut") {
  Loan loan;
  const auto registers = loan.map_registers(0, 2 * gib);
  loan.check_map(0, 2 * gib, page);
  loan.answer();
  CHECK((*registers && **registers));
  const bool beside = GENERATE(false, true);
  if (beside) {
    loan.map(2 * gib, 2 * gib);
    loan.answer();
    loan.answer();
    CHECK(loan.ask(DmaUnmap{Iova{gib}, 3 * gib})->value() == std::unexpected(EINVAL)); // half of the registers
  }
  const auto unmapped = loan.ask(DmaUnmap{Iova{0}, beside ? 4 * gib : 2 * gib});
  loan.check_unmap(0, 2 * gib);
  loan.answer();
  for (const auto iova : {2 * gib, 3 * gib}) {
    if (!beside) break;
    CHECK_FALSE(*unmapped);
    loan.check_unmap(iova, gib);
    loan.answer();
  }
  CHECK((*unmapped && **unmapped));
  CHECK(loan.device->usage().windows == 0);
}

TEST_CASE("a window of more pieces than are kept is refused at once, and one that is not cut goes to the lender") {
  Loan loan;
  for (const auto size : {1024 * gib + page, 1UL << 62}) REQUIRE(loan.map(0, size)->value() == std::unexpected(ENOSPC));
  CHECK(loan.map(page, 1024 * gib)->value() == std::unexpected(ENOSPC)); // ends in another GiB than it starts
  CHECK(loan.lender->waiting.empty());
  loan.map_registers(0, 1UL << 62);
  loan.check_map(0, 1UL << 62, page);
  loan.answer(EINVAL);
  loan.map(0, 1024 * gib);
  loan.check_map(0, gib, page);
  loan.answer(ENOMEM);
}

TEST_CASE("vectors beyond those that PCI knows do not reach a lender, whatever its device claims") {
  Loan loan;
  constexpr auto assign = vfio::irq_data_eventfd | vfio::irq_action_trigger;
  const auto refused = loan.ask(vfio::SetIrqs{assign, vfio::msix, 2047, 2, {}, {}});
  REQUIRE(refused->has_value());
  CHECK(refused->value() == std::unexpected(EINVAL));
  CHECK(loan.ask(vfio::SetIrqs{assign, vfio::msix, UINT32_MAX, 1, {}, {}})->has_value());
  CHECK(loan.lender->waiting.empty());
  CHECK_FALSE(loan.ask(vfio::SetIrqs{assign, vfio::msix, 2047, 1, {}, {}})->has_value());
  CHECK(loan.asked<vfio::SetIrqs>().start == 2047);
}

TEST_CASE("a window that takes longer than a client waits is taken back") {
  Loan loan(std::chrono::milliseconds(0));
  const auto mapped = loan.map(0, 3 * gib);
  loan.answer();
  loan.check_unmap(0, gib);
  loan.answer();
  CHECK(mapped->value() == std::unexpected(ETIMEDOUT));
}

TEST_CASE("where a piece cannot be taken back the client loses the device, which the lender then cleans up") {
  Loan loan;
  const auto event = make_eventfd().value();
  vfio::SetIrqs errors{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::err, 0, 1, {}, {}};
  errors.eventfds.push_back(event.duplicate().value());
  loan.ask(std::move(errors));
  const auto mapped = loan.map(0, 2 * gib);
  loan.answer();
  loan.answer(EINVAL);
  loan.answer(EIO);
  CHECK(mapped->value() == std::unexpected(EINVAL));
  CHECK(loan.closed);
  CHECK(drain_eventfd(event.get()) == 1);
  CHECK_FALSE(loan.ask(DmaUnmap{Iova{0}, 2 * gib})->value()); // it may still be written
}

TEST_CASE("a device that goes while a window is mapped in pieces answers it and what waited") {
  Loan loan;
  const auto mapped = loan.map(0, 2 * gib);
  const auto read = loan.ask(vfio::RegionRead{0, 0, 1});
  loan.device->revoke(true);
  CHECK(std::get<vfio::Data>(read->value().value()).bytes == std::vector{std::byte{0xff}});
  loan.answer(); // the first piece
  CHECK(mapped->value() == std::unexpected(ENODEV));
  CHECK(loan.lender->waiting.empty());
}

TEST_CASE("once a device was taken away an unmap is confirmed by an orderly end, whatever end came before or after") {
  struct Row {
    std::vector<bool> ends; ///< orderly, or not
    bool unmapped;
  };
  for (const auto& row : {Row{{true}, true}, Row{{false}, false}, Row{{true, false}, true}, Row{{false, true}, true}}) {
    Loan loan;
    for (const bool orderly : row.ends) loan.device->revoke(orderly);
    CHECK(loan.ask(DmaUnmap{Iova{0}, page})->value().has_value() == row.unmapped);
    CHECK(loan.lender->waiting.empty());
  }
}

TEST_CASE("a descriptor that is more than one region goes with its areas to the trusted, and neither to others") {
  struct Whole final : SmallDevice {
    void submit(vfio::Request request, vfio::Completion done) override {
      SmallDevice::submit(std::move(request), [done = std::move(done)](vfio::Reply reply) mutable {
        if (auto* info = reply ? std::get_if<vfio::RegionInfo>(&*reply) : nullptr) info->fd = make_eventfd().value();
        done(std::move(reply));
      });
    }
  };
  const bool trusted = GENERATE(false, true);
  const auto device = std::make_shared<BorrowedDevice>(
      trusted, [] {}, std::chrono::hours(1));
  OpenedDevice open;
  open.device = std::make_shared<Whole>();
  open.close = [](std::move_only_function<void()> closed) { closed(); };
  device->connected(std::move(open));
  std::optional<vfio::Reply> reply;
  device->submit(vfio::GetRegionInfo{0}, [&reply](vfio::Reply answer) { reply = std::move(answer); });
  REQUIRE((reply && *reply));
  const auto& info = std::get<vfio::RegionInfo>(**reply);
  CHECK(static_cast<bool>(info.fd) == trusted);
  CHECK(info.areas.empty() == !trusted);
  CHECK(((info.flags & vfio::region_flag_mmap) != 0) == trusted);
  CHECK(device->holds_function() == trusted);
  CHECK(device->usage().trapped == !trusted);
  device->close();
}
