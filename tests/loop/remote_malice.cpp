// A device lent over a path, and messages that are well-formed but no honest node sends: of ranges that there are
// not, out of turn, or after the end. Each end of a session is spoken to by the test in the other's place.
#include "remote_session.hpp"
#include "user/codec.hpp"
#include "vfio_user_raw.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::testing;
using smartio::test::join;
using smartio::test::raw;
using vfio::user::Command;

namespace {

constexpr std::uint32_t number = 9;
constexpr std::uint64_t window = MemoryPath::window_bytes;

std::string text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The test is the borrower's node.
struct Lender : RemoteSession {
  Lender() : RemoteSession(true) {}

  /// The errno of the answer, 0 for success.
  int command(Command code, const std::vector<std::byte>& payload, std::vector<std::uint8_t> doorbells = {}) {
    client->received({.loan = loan,
                      .session = 1,
                      .kind = DeviceMessage::Kind::command,
                      .number = number,
                      .code = static_cast<std::uint16_t>(code),
                      .window = code == Command::dma_map,
                      .doorbells = std::move(doorbells),
                      .payload = text(payload)});
    for (int i = 0; i < 300 && to_borrower.empty(); ++i) io.run_for(std::chrono::milliseconds(5));
    REQUIRE(to_borrower.size() == 1);
    const auto reply = std::exchange(to_borrower, {}).front();
    REQUIRE(reply.kind == DeviceMessage::Kind::reply);
    CHECK(reply.number == number);
    return reply.code;
  }
  int map(std::uint64_t offset, std::uint64_t iova, std::uint64_t size) {
    return command(Command::dma_map, raw(vfio::user::DmaMapBody{32, 3, offset, iova, size}));
  }
  int access(Command code, std::uint32_t region, std::uint64_t offset, std::uint32_t count) {
    const auto head = raw(vfio::user::AccessBody{offset, region, count});
    return command(code, code == Command::region_read ? head : join(head, std::vector<std::byte>(count)));
  }
  int interrupts(std::uint32_t flags, std::uint32_t index, std::uint32_t start, std::uint32_t count,
                 std::vector<std::uint8_t> doorbells = {}) {
    return command(Command::set_irqs, raw(vfio::user::SetIrqsBody{20, flags, index, start, count}),
                   std::move(doorbells));
  }
};

/// The test is the lender's node.
struct Borrower : RemoteSession {
  Borrower() { client->close(); }

  /// Asks, and gives the number of the command that has come for it.
  std::uint32_t asked(vfio::Request request) {
    to_borrower.clear();
    to_lender.clear();
    reply.reset();
    device->submit(std::move(request), [this](vfio::Reply answer) { reply = std::move(answer); });
    REQUIRE(to_lender.size() == 1);
    const auto command = core::decode_device_message(std::exchange(to_lender, {}).front()).value();
    REQUIRE(command.kind == DeviceMessage::Kind::command);
    return command.number;
  }
  void answer(std::uint32_t to, const std::vector<std::byte>& payload = {}, bool has_window = false, int error = 0) {
    device->received({.loan = loan,
                      .session = 1,
                      .kind = DeviceMessage::Kind::reply,
                      .number = to,
                      .code = static_cast<std::uint16_t>(error),
                      .window = has_window,
                      .payload = text(payload)});
  }
  int error() const { return reply && !*reply ? reply->error() : 0; }

  std::optional<vfio::Reply> reply;
};

constexpr auto triggers = vfio::irq_data_eventfd | vfio::irq_action_trigger;
constexpr auto disables = vfio::irq_data_none | vfio::irq_action_trigger;

} // namespace

TEST_CASE("memory that is not wholly in the borrower's window is not mapped for the device, and what is in it is") {
  Lender lender;
  REQUIRE(lender.b->state().aperture_bytes == window);
  for (const auto& [offset, size] : {std::pair{window, page},
                                     {window - page, 2 * page},
                                     {0UL, window + page},
                                     {page, window},
                                     {UINT64_MAX / 2 - page + 1, page},
                                     {UINT64_MAX - page + 1, page},
                                     {UINT64_MAX - page + 1, 2 * page},
                                     {0UL, UINT64_MAX - page + 1}}) {
    INFO(size << " bytes at " << offset);
    CHECK(lender.map(offset, page, size) == EINVAL);
  }
  CHECK(lender.lent->windows.empty());
  CHECK(lender.map(window - page, page, page) == 0);
  CHECK(lender.map(0, 0x100000, window) == 0);
  CHECK(lender.lent->windows.size() == 2);
  const auto at = static_cast<off_t>(MemoryPath::fd_offset + window - page); // what the device reaches is there
  REQUIRE(::pwrite(lender.b->aperture().fd.get(), "x", 1, at) == 1);
  CHECK(lender.lent->windows.at(page).memory.bytes()[0] == std::byte{'x'});
  CHECK(lender.lent->windows.at(0x100000).memory.bytes()[window - page] == std::byte{'x'});
}

TEST_CASE("a window of no size, or that is not of whole pages, or that wraps, is not mapped") {
  Lender lender;
  for (const auto& [offset, iova, size] : {std::tuple{0UL, page, 0UL},
                                           {0UL, page, page / 2},
                                           {0UL, page + 8, page},
                                           {8UL, page, page},
                                           {0UL, UINT64_MAX - page + 1, 2 * page}})
    CHECK(lender.map(offset, iova, size) == EINVAL);
  const auto unmap = [&lender](std::uint32_t flags, std::uint64_t iova, std::uint64_t size) {
    return lender.command(Command::dma_unmap, raw(vfio::user::DmaUnmapBody{24, flags, iova, size}));
  };
  REQUIRE(lender.map(0, page, page) == 0);
  CHECK(unmap(0, page, 0) == EINVAL);
  CHECK(unmap(0, UINT64_MAX - page + 1, 2 * page) == EINVAL);
  CHECK(unmap(2, page, page) == EINVAL);
  CHECK(lender.lent->windows.size() == 1);
}

TEST_CASE("an access outside a region never reaches the device") {
  Lender lender;
  const auto code = GENERATE(Command::region_read, Command::region_write);
  for (const auto& [region, offset, count] : {std::tuple{0U, 4 * page, 1U},
                                              {0U, 4 * page - 1, 2U},
                                              {0U, UINT64_MAX - 7, 8U},
                                              {1U, 0UL, 4U},
                                              {2U, page, 4U},
                                              {vfio::config_region, 256UL, 1U},
                                              {9U, 0UL, 4U},
                                              {UINT32_MAX, 0UL, 4U}}) {
    INFO(count << " bytes at " << offset << " of region " << region);
    CHECK(lender.access(code, region, offset, count) == EINVAL);
  }
  CHECK(lender.lent->region_accesses == 0);
  CHECK(lender.access(code, 0, 4 * page - 1, 1) == 0);
  CHECK(lender.lent->region_accesses == 1);
}

TEST_CASE("an interrupt that there is not is not connected") {
  Lender lender;
  lender.lent->vectors[2] = Fd(::eventfd(0, EFD_CLOEXEC));
  for (const auto& [index, start, count] : {std::tuple{vfio::msix, 4U, 1U},
                                            {vfio::msix, 3U, 2U},
                                            {vfio::msix, 0U, 5U},
                                            {vfio::msix, UINT32_MAX, 2U},
                                            {vfio::intx, 0U, 1U},
                                            {vfio::req + 1, 0U, 1U},
                                            {UINT32_MAX, 0U, 1U}}) {
    INFO("interrupt " << index << ", " << count << " from " << start);
    CHECK(lender.interrupts(triggers, index, start, count, std::vector<std::uint8_t>(count, core::no_doorbell)) ==
          EINVAL);
  }
  CHECK(lender.interrupts(disables, vfio::req + 1, 0, 0) == EINVAL);
  CHECK(lender.lent->vectors.size() == 1);
  CHECK(lender.lent->msix_disables == 0);
}

TEST_CASE("interrupts come with a doorbell each, and no others do") {
  Lender lender;
  CHECK(lender.interrupts(triggers, vfio::msix, 0, 2, {1}) == EINVAL);
  CHECK(lender.interrupts(triggers, vfio::msix, 0, 2, {1, 2, 3}) == EINVAL);
  CHECK(lender.interrupts(disables, vfio::msix, 0, 0, {1}) == EINVAL);
  CHECK(lender.interrupts(disables, vfio::msix, 0, 1, {1}) == EINVAL);
  CHECK(lender.lent->vectors.empty());
  CHECK(lender.lent->msix_disables == 0);
  CHECK(lender.interrupts(triggers, vfio::msix, 0, 2, {1, 2}) == 0);
  CHECK(lender.lent->vectors.size() == 2);
}

TEST_CASE("a doorbell that the path has not is not rung, and harms no other") {
  Lender lender;
  unsigned rung = 0;
  while (lender.a->claim_doorbell([&rung] { ++rung; })) continue;
  const auto bad = GENERATE(as<std::uint8_t>(), 32, 63, 64, 254);
  REQUIRE(lender.interrupts(triggers, vfio::msix, 0, 2, {bad, 5}) == 0);
  lender.lent->fire(0);
  lender.io.run_for(std::chrono::milliseconds(50));
  CHECK(rung == 0);
  CHECK(lender.to_borrower.empty());
  lender.lent->fire(1);
  CHECK(lender.reach([&rung] { return rung == 1; }));
  CHECK(lender.access(Command::region_read, 0, 0, 4) == 0);
}

TEST_CASE("commands that come after the end of a session reach nothing, and are not answered") {
  Lender lender;
  REQUIRE(lender.interrupts(triggers, vfio::msix, 0, 1, {core::no_doorbell}) == 0);
  lender.client->close();
  REQUIRE(lender.to_borrower.size() == 1);
  CHECK(lender.to_borrower.front().kind == DeviceMessage::Kind::closed);
  lender.to_borrower.clear();
  const auto accesses = lender.lent->region_accesses;
  for (const auto code : {Command::reset, Command::region_read, Command::dma_map, Command::set_irqs})
    lender.client->received({.loan = loan,
                             .session = 1,
                             .kind = DeviceMessage::Kind::command,
                             .number = 1,
                             .code = static_cast<std::uint16_t>(code)});
  lender.lent->fire(0);
  lender.io.run_for(std::chrono::milliseconds(50));
  CHECK(lender.to_borrower.empty());
  CHECK(lender.lent->resets == 0);
  CHECK(lender.lent->region_accesses == accesses);
}

TEST_CASE("more commands at once than an honest node sends end the session") {
  Lender lender;
  lender.lent->ignore = [](const vfio::Request&) { return true; };
  const auto send = [&lender] {
    lender.client->received({.loan = loan,
                             .session = 1,
                             .kind = DeviceMessage::Kind::command,
                             .number = 1,
                             .code = static_cast<std::uint16_t>(Command::reset)});
  };
  for (int i = 0; i < 65; ++i) send(); // one under way, 64 that wait
  CHECK(lender.to_borrower.empty());
  send();
  REQUIRE(lender.to_borrower.size() == 1);
  CHECK(lender.to_borrower.front().kind == DeviceMessage::Kind::closed);
}

TEST_CASE(
    "registers that a lender says are outside its window are reached by message, and never through the aperture") {
  Borrower borrower;
  REQUIRE(borrower.a->state().aperture_bytes == window);
  const auto [offset, size] = GENERATE(table<std::uint64_t, std::uint64_t>({{window, page},
                                                                            {window - page, 2 * page},
                                                                            {0, window + page},
                                                                            {page, window},
                                                                            {window * 16, 4 * page},
                                                                            {INT64_MAX - 2 * page + 1, page}}));
  INFO(size << " bytes at " << offset);
  const auto flags = vfio::region_flag_read | vfio::region_flag_write | vfio::region_flag_mmap;
  const auto to = borrower.asked(vfio::GetRegionInfo{0});
  borrower.answer(to, raw(vfio::user::RegionInfoBody{32, flags, 0, 0, size, offset}), true);
  REQUIRE((borrower.reply && *borrower.reply));
  const auto& info = std::get<vfio::RegionInfo>(borrower.reply->value());
  CHECK(info.areas.empty());
  CHECK_FALSE(info.fd);
  CHECK((info.flags & vfio::region_flag_mmap) == 0);
  borrower.asked(vfio::RegionRead{0, 0, 4}); // a command has come
  CHECK_FALSE(borrower.lost);
}

TEST_CASE("registers in several pieces, of which a window has one place, are reached by message") {
  Borrower borrower;
  using namespace vfio::user;
  const auto flags = vfio::region_flag_read | vfio::region_flag_write | vfio::region_flag_mmap | vfio::region_flag_caps;
  const auto to = borrower.asked(vfio::GetRegionInfo{0});
  borrower.answer(to,
                  join(raw(RegionInfoBody{80, flags, 0, 32, 4 * page, 0}), raw(SparseCap{1, 1, 0, 2, 0}),
                       raw(SparseArea{0, page}), raw(SparseArea{2 * page, page})),
                  true);
  REQUIRE((borrower.reply && *borrower.reply));
  CHECK(std::get<vfio::RegionInfo>(borrower.reply->value()).areas.empty());
  borrower.asked(vfio::RegionRead{0, 0, 4}); // a command has come
  CHECK_FALSE(borrower.lost);
}

TEST_CASE("registers at the very end of the lender's window are reached through the aperture") {
  Borrower borrower;
  const auto flags = vfio::region_flag_read | vfio::region_flag_write | vfio::region_flag_mmap;
  const auto to = borrower.asked(vfio::GetRegionInfo{0});
  borrower.answer(to, raw(vfio::user::RegionInfoBody{32, flags, 0, 0, 2 * page, window - 2 * page}), true);
  REQUIRE((borrower.reply && *borrower.reply));
  borrower.device->submit(vfio::RegionRead{0, 0, 4}, [](const vfio::Reply&) {});
  CHECK(borrower.to_lender.empty());
}

TEST_CASE("a reply that does not fit its command fails that, changes nothing, and is forgotten") {
  Borrower borrower;
  using namespace vfio::user;
  const auto refused = [&borrower](vfio::Request request, const std::vector<std::byte>& payload,
                                   bool has_window = false) {
    borrower.answer(borrower.asked(std::move(request)), payload, has_window);
    return borrower.error() == EPROTO && !borrower.lost;
  };
  const vfio::RegionRead read{0, 0, 4};
  const auto access = [](std::uint32_t count) { return raw(AccessBody{0, 0, count}); };
  const auto bytes = [](std::size_t count) { return std::vector<std::byte>(count); };
  CHECK(refused(read, {}));
  CHECK(refused(read, access(4)));
  CHECK(refused(read, join(access(4), bytes(3))));
  CHECK(refused(read, join(access(4), bytes(5))));
  CHECK(refused(read, join(access(8), bytes(8))));
  CHECK(refused(read, join(access(4), bytes(4)), true));
  CHECK(refused(vfio::RegionWrite{0, 0, bytes(4)}, access(2)));
  CHECK(refused(vfio::RegionWrite{0, 0, bytes(4)}, join(access(4), bytes(4))));
  CHECK(refused(vfio::GetInfo{}, bytes(15)));
  CHECK(refused(vfio::GetRegionInfo{0}, raw(RegionInfoBody{32, 3, 1, 0, page, 0})));
  CHECK(refused(vfio::GetRegionInfo{0}, raw(RegionInfoBody{32, 3, 0, 0, page, 0}), true));
  CHECK(refused(vfio::GetRegionInfo{0}, raw(RegionInfoBody{32, 7, 0, 0, page, INT64_MAX}), true));
  CHECK(refused(vfio::GetIrqInfo{2}, raw(IrqInfoBody{16, 1, 0, 4})));
  CHECK(refused(vfio::SetIrqs{disables, vfio::msix, 0, 0, {}, {}}, bytes(1)));
  CHECK(refused(vfio::DmaUnmap{Iova{}, 0, true}, bytes(23)));
  CHECK(refused(vfio::Reset{}, {}, true));
  borrower.answer(borrower.asked(read), join(access(4), bytes(4)));
  CHECK((borrower.reply && *borrower.reply));
}

TEST_CASE("memory stays exposed only for a map that succeeded, and until an unmap did") {
  Borrower borrower;
  const auto memory = make_memfd("memory", 14 * page).value(), other = make_memfd("memory", 14 * page).value();
  const auto map = [&](const Fd& of) {
    return vfio::DmaMap{Iova{page}, 14 * page, Access::read_write, of.duplicate().value(), 0};
  };
  const auto used = [&] { // there is room for one of them
    std::optional<vfio::Reply> reply;
    const auto before = borrower.to_lender.size();
    borrower.device->submit(vfio::DmaMap{Iova{0x100000}, 14 * page, Access::read, other.duplicate().value(), 0},
                            [&reply](vfio::Reply answer) { reply = std::move(answer); });
    const bool full = reply && !*reply && reply->error() == ENOSPC;
    if (full) return true;
    REQUIRE(borrower.to_lender.size() == before + 1);
    const auto command = core::decode_device_message(std::exchange(borrower.to_lender, {}).back()).value();
    borrower.answer(command.number, {}, false, EIO);
    return false;
  };
  SECTION("the lender refused") { borrower.answer(borrower.asked(map(memory)), {}, false, ENOMEM); }
  SECTION("the lender's answer is none") { borrower.answer(borrower.asked(map(memory)), std::vector<std::byte>(1)); }
  SECTION("it was unmapped") {
    borrower.answer(borrower.asked(map(memory)));
    CHECK(used());
    const auto unmap = vfio::DmaUnmap{Iova{page}, 14 * page};
    const auto unmapped = raw(vfio::user::DmaUnmapBody{24, 0, page, 14 * page});
    borrower.answer(borrower.asked(unmap), {}, false, EIO);
    CHECK(used());
    borrower.answer(borrower.asked(unmap), std::vector<std::byte>(1)); // an answer that is none
    CHECK(used());
    borrower.answer(borrower.asked(unmap), unmapped);
  }
  CHECK_FALSE(used());
}

TEST_CASE("a reply to another command than the one under way loses the device") {
  Borrower borrower;
  const auto to = borrower.asked(vfio::Reset{});
  SECTION("the next") { borrower.answer(to + 1); }
  SECTION("the one before") { borrower.answer(to - 1); }
  SECTION("one far away") { borrower.answer(to + 0x80000000); }
  SECTION("a second reply to it") {
    borrower.answer(to);
    REQUIRE((borrower.reply && *borrower.reply && !borrower.lost));
    borrower.answer(to);
    CHECK(borrower.lost);
    return;
  }
  CHECK(borrower.lost);
  CHECK(borrower.error() == ECANCELED);
}

TEST_CASE("interrupts that were not asked for, and messages after the end, reach nobody") {
  Borrower borrower;
  while (borrower.a->claim_doorbell([] {})) continue;
  const Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  vfio::SetIrqs irqs{triggers, vfio::msix, 1, 1, {}, {}};
  irqs.eventfds.push_back(event.duplicate().value());
  borrower.answer(borrower.asked(std::move(irqs)));
  REQUIRE((borrower.reply && *borrower.reply));
  const auto interrupt = [&borrower](std::uint32_t index, unsigned vector) {
    borrower.device->received({.loan = loan,
                               .session = 1,
                               .kind = DeviceMessage::Kind::interrupt,
                               .number = index,
                               .code = static_cast<std::uint16_t>(vector)});
  };
  for (const auto& [index, vector] :
       {std::pair{vfio::msix, 0U}, {vfio::msix, 2U}, {vfio::msix, 0xffffU}, {vfio::intx, 1U}, {UINT32_MAX, 1U}})
    interrupt(index, vector);
  CHECK(drain_eventfd(event.get()) == 0);
  interrupt(vfio::msix, 1);
  CHECK(drain_eventfd(event.get()) == 1);
  CHECK_FALSE(borrower.lost);

  const auto to = borrower.asked(vfio::Reset{});
  borrower.device->close();
  CHECK(borrower.error() == ECANCELED);
  const auto sent = borrower.to_lender.size();
  borrower.answer(to);
  interrupt(vfio::msix, 1);
  borrower.device->received({.loan = loan, .session = 1, .kind = DeviceMessage::Kind::command, .number = 1});
  CHECK(drain_eventfd(event.get()) == 0);
  CHECK(borrower.to_lender.size() == sent);
  CHECK_FALSE(borrower.lost); // it was closed, and not lost
}
