// A device lent over a path, as its borrower uses it.
#include "any_client.hpp"
#include "remote_session.hpp"
#include "user/codec.hpp"

using namespace smartio;
using namespace smartio::testing;
using Session = RemoteSession;

TEST_CASE("the slice of the IOVAs that the lender names arrives") {
  Session session;
  session.lent->flags = vfio::with_slice(session.lent->flags, 5);
  CHECK(vfio::slice_of(std::get<vfio::Info>(session.ask(vfio::GetInfo{}).value()).flags) == 5);
}

TEST_CASE("what the lender's IOMMU reserves is known across a path") {
  Session session;
  session.lent->usable = {{0, 0xfedfffff}, {0xfef00000, 0x7fffffffff}};
  CHECK(std::get<vfio::Info>(session.ask(vfio::GetInfo{}).value()).iovas == session.lent->usable);
}

TEST_CASE("registers that the lender exposes are accessed through the path, all others by message") {
  Session session;
  std::memset(session.lent->bar0.bytes().data() + page, 0x11, page);
  const auto info = session.region(0);
  CHECK(info.size == 4 * page);
  CHECK(info.areas.empty()); // this aperture cannot be mapped
  const auto before = session.lent->region_accesses;
  CHECK(session.read(page) == 0x1111111111111111);
  CHECK(session.ask(vfio::RegionWrite{0, page + 8, std::vector<std::byte>(8, std::byte{0x22})}));
  CHECK(session.lent->bar0.bytes()[page + 8] == std::byte{0x22});
  CHECK(session.lent->region_accesses == before);
  session.read(0);
  CHECK(session.lent->region_accesses == before + 1);
}

TEST_CASE("where the path's aperture can be mapped, registers stand in its descriptor where the window has them") {
  Session session;
  session.a->make_mappable();
  const auto info = session.region(0);
  CHECK((info.flags & vfio::region_flag_mmap) != 0);
  REQUIRE(info.fd);
  REQUIRE(info.areas.size() == 1);
  CHECK(info.areas[0] == vfio::RegionArea{page, 2 * page});
  REQUIRE(info.fd_offset >= MemoryPath::fd_offset);
  const auto offset = info.fd_offset - MemoryPath::fd_offset; // in the lender's window
  std::memset(session.lent->bar0.bytes().data() + page, 0x11, page);
  CHECK(read_through(*session.a, offset + page) == 0x1111111111111111);
}

TEST_CASE("what was exposed for a session ends with it") {
  Session session;
  session.region(0);
  CHECK(session.b->used_bytes() == 4 * page);
  session.region(0); // asked again: the same
  CHECK(session.b->used_bytes() == 4 * page);
  CHECK(session.reached(2 * page));
  CHECK(session.lent.use_count() > 1);
  session.client->close();
  CHECK(session.lent.use_count() == 1); // the device is the lender's alone again
  CHECK(session.b->used_bytes() == 0);
  CHECK_FALSE(session.reached(2 * page));
  CHECK(session.reach([&] { return session.lost; }));
}

TEST_CASE("an access that leaves the exposed registers does not go through the path") {
  Session session;
  session.region(0);
  const auto area_end = 3 * page; // pages 1 and 2 are exposed
  const auto before = session.lent->region_accesses;
  for (const auto offset : {page - 4, area_end - 4, area_end}) session.read(offset);
  CHECK(session.lent->region_accesses == before + 3);
}

TEST_CASE("an answer of the device that comes after the end of its session goes nowhere") {
  Session session;
  session.lent->written = [&session](const vfio::RegionWrite&) { session.client->close(); }; // meanwhile
  session.device->submit(vfio::RegionWrite{0, 0, std::vector<std::byte>(4)}, [](const vfio::Reply&) {});
  for (const auto& bytes : std::exchange(session.to_lender, {}))
    session.client->received(core::decode_device_message(bytes).value());
  REQUIRE(session.to_borrower.size() == 1);
  CHECK(session.to_borrower.front().kind == DeviceMessage::Kind::closed);
}

TEST_CASE("registers that the lender's path does not map, or maps too late, take up no room, and are not reached") {
  Session session;
  auto& path = *session.b->watched();
  const bool late = GENERATE(false, true);
  if (!late) {
    path.refuse = [](const auto&) { return ENOSPC; };
    CHECK(session.region(0).areas.empty());
  } else {
    path.late = true;
    session.device->submit(vfio::GetRegionInfo{0}, [](const vfio::Reply&) {});
    REQUIRE(session.reach([&path] { return !path.answers.empty(); }));
    path.late = false;
    session.client->close();
    path.answer();
  }
  CHECK(session.b->used_bytes() == 0);
  CHECK(path.unmaps == (late ? 1 : 0));
}

TEST_CASE("room where the lender's path still reaches registers is not used again") {
  Session session;
  session.region(0);
  session.b->watched()->stuck = true;
  session.client->close();
  CHECK(session.b->used_bytes() == 4 * page);
  session.b->watched()->stuck = false;
}

TEST_CASE("without room in the window registers are reached by messages") {
  Session session;
  const auto all = session.b->reserve(MemoryPath::room_bytes);
  REQUIRE(all.has_value());
  session.region(0);
  const auto before = session.lent->region_accesses;
  session.read(page);
  CHECK(session.lent->region_accesses == before + 1);
}

TEST_CASE("registers have room that only unused memory takes up") {
  Session session;
  const auto memory = make_memfd("memory", MemoryPath::room_bytes).value();
  const auto client = std::make_shared<Exposures::Client>();
  session.lenders->expose(client, memory.duplicate().value(), 0, MemoryPath::room_bytes, Access::read_write,
                          [&session](auto at) { session.lenders->unexpose(at.value(), [] {}); });
  CHECK(session.b->used_bytes() == MemoryPath::room_bytes);
  session.region(0);
  CHECK(session.b->used_bytes() == 4 * page);
  const auto before = session.lent->region_accesses;
  session.read(page);
  CHECK(session.lent->region_accesses == before);
}

TEST_CASE("an interrupt is a doorbell of the path") {
  Session session;
  const auto first = session.connect(0), third = session.connect(2);
  session.lent->fire(2);
  CHECK(session.reach([&] { return drain_eventfd(third.get()) == 1; }));
  CHECK(drain_eventfd(first.get()) == 0);
  CHECK(session.to_borrower.empty());
}

TEST_CASE("an interrupt is a message when there are no doorbells left") {
  Session session;
  while (session.a->claim_doorbell([] {})) continue;
  const auto event = session.connect(1);
  session.lent->fire(1);
  CHECK(session.reach([&] { return drain_eventfd(event.get()) == 1; }));
}

TEST_CASE("an interrupt does not overtake what the device wrote before") {
  Session session;
  const auto event = session.connect(0);
  const auto seen = session.write_under_way();
  CHECK(seen.bytes()[0] == std::byte{0});
  session.lent->fire(0);
  CHECK(session.reach([&] { return drain_eventfd(event.get()) == 1; }));
  CHECK(seen.bytes()[0] == std::byte{0x55});
}

TEST_CASE("what the device wrote has arrived when its memory is unmapped") {
  Session session;
  const auto seen = session.write_under_way();
  CHECK(session.ask(vfio::DmaUnmap{Iova{}, 0, true}).has_value());
  CHECK(seen.bytes()[0] == std::byte{0x55});
}

TEST_CASE("a flush that fails keeps back neither the answer to an unmap nor an interrupt") {
  Session session;
  const auto event = session.connect(0);
  session.b->flush_fails = true;
  CHECK(session.ask(vfio::DmaUnmap{Iova{}, 0, true}).has_value());
  session.lent->fire(0);
  CHECK(session.reach([&] { return drain_eventfd(event.get()) == 1; }));
}

TEST_CASE("the end of interrupts gives doorbells back") {
  Session session;
  int most = 0;
  for (int round = 0; round < 3; ++round) {
    const auto event = session.connect(0);
    REQUIRE(session.ask(vfio::SetIrqs{vfio::irq_data_none | vfio::irq_action_trigger, vfio::msix, 0, 0, {}, {}}));
  }
  while (session.a->claim_doorbell([] {})) ++most;
  CHECK(most == 31);
}

TEST_CASE("a vector that is taken away gives its doorbell back, and the others keep theirs") {
  Session session;
  const auto other = session.connect(1);
  for (int round = 0; round < 3; ++round) {
    const auto event = session.connect(0);
    REQUIRE(session.ask(vfio::SetIrqs{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, 0, 1, {}, {}}));
    session.lent->fire(0);
    session.lent->fire(1);
    CHECK(session.reach([&] { return drain_eventfd(other.get()) == 1; }));
    CHECK(drain_eventfd(event.get()) == 0);
  }
  int most = 0;
  while (session.a->claim_doorbell([] {})) ++most;
  CHECK(most == 30);
}

TEST_CASE("registers beyond a path that is down fail, and the device is lost only when that is said") {
  Session session;
  session.region(0);
  session.a->go_down("it is silent");
  CHECK_FALSE(session.ask(vfio::RegionRead{0, page, 8}).has_value());
  CHECK_FALSE(session.ask(vfio::RegionWrite{0, page, std::vector<std::byte>(8)}).has_value());
  CHECK_FALSE(session.lost);
  session.device->lose();
  CHECK(session.lost);
  CHECK(session.ask(vfio::RegionRead{0, page, 8}).error() == ENODEV);
}

TEST_CASE("a lender that does not answer loses the device") {
  Session session;
  session.lent->ignore = [](const vfio::Request&) { return true; };
  const auto reply = session.ask(vfio::Reset{});
  CHECK(reply.error() == ECANCELED);
  CHECK(session.lost);
  CHECK(session.ask(vfio::Reset{}).error() == ENODEV);
}

TEST_CASE("answers that were not asked for lose the device") {
  Session session;
  const auto kind = GENERATE(DeviceMessage::Kind::reply, DeviceMessage::Kind::command);
  session.device->received({.loan = loan, .session = 1, .kind = kind, .number = 77});
  CHECK(session.lost);
}

TEST_CASE("malformed commands are answered with an errno and reach nothing") {
  Session session;
  using vfio::user::Command;
  const auto refused = [&](Command command, std::string payload, bool window = false) {
    session.client->received({.loan = loan,
                              .session = 1,
                              .kind = DeviceMessage::Kind::command,
                              .number = 9,
                              .code = static_cast<std::uint16_t>(command),
                              .window = window,
                              .payload = std::move(payload)});
    REQUIRE(session.to_borrower.size() == 1);
    const auto reply = std::move(session.to_borrower.front());
    session.to_borrower.clear();
    return reply.kind == DeviceMessage::Kind::reply && reply.number == 9 && reply.code != 0;
  };
  for (const auto command : {Command::version, Command::get_region_info, Command::set_irqs, Command::dma_map,
                             Command::dma_read, Command{99}})
    CHECK(refused(command, "x"));
  CHECK(refused(Command::dma_map, std::string(32, '\xff'), true));
  CHECK(refused(Command::reset, "", true));
  CHECK(session.lent->windows.empty());
  CHECK(session.lent->resets == 0);
}

TEST_CASE("only a map of memory names a window, and only interrupts name doorbells") {
  Session session(true);
  using vfio::user::Command;
  const auto refused = [&](Command command, const vfio::Request& request, bool window,
                           std::vector<std::uint8_t> bells) {
    const auto payload = vfio::user::encode_request(request);
    const auto bytes = payload.body.bytes();
    session.client->received({.loan = loan,
                              .session = 1,
                              .kind = DeviceMessage::Kind::command,
                              .number = 9,
                              .code = static_cast<std::uint16_t>(command),
                              .window = window,
                              .doorbells = std::move(bells),
                              .payload = {reinterpret_cast<const char*>(bytes.data()), bytes.size()}});
    REQUIRE(session.to_borrower.size() == 1);
    return std::exchange(session.to_borrower, {}).front().code == EINVAL;
  };
  const auto irqs = [] {
    return vfio::SetIrqs{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, 0, 1, {}, {}};
  };
  CHECK(refused(Command::set_irqs, irqs(), true, {}));
  CHECK(refused(Command::set_irqs, irqs(), true, {5}));
  CHECK(refused(Command::get_info, vfio::GetInfo{}, false, {5}));
  CHECK(refused(Command::reset, vfio::Reset{}, false, {5}));
  CHECK(session.lent->resets == 0);
}

TEST_CASE("interrupts that end leave no descriptor at the lender") {
  Session session;
  session.connect(0);
  const auto before = test::descriptors_now();
  for (int i = 0; i < 3; ++i) {
    session.connect(1);
    session.connect(2);
    CHECK(session.ask(vfio::SetIrqs{vfio::irq_data_none | vfio::irq_action_trigger, vfio::msix, 0, 0, {}, {}}));
    session.connect(0);
    session.io.run_for(std::chrono::milliseconds(5));
  }
  CHECK(test::descriptors_now() == before);
}

TEST_CASE("a message of the wrong kind ends the session at the lender") {
  Session session;
  session.client->received({.loan = loan, .session = 1, .kind = DeviceMessage::Kind::reply});
  CHECK(session.to_borrower.back().kind == DeviceMessage::Kind::closed);
}

TEST_CASE("a device message is what it was after a journey, and anything else is none") {
  const DeviceMessage message{.loan = loan,
                              .session = 7,
                              .kind = DeviceMessage::Kind::interrupt,
                              .number = 2,
                              .code = 3,
                              .window = true,
                              .doorbells = {1, 2, core::no_doorbell},
                              .payload = "payload"};
  const auto bytes = core::encode(message);
  CHECK(core::decode_device_message(bytes) == message);
  for (std::size_t size = 0; size < core::device_message_head + 3; ++size)
    CHECK_FALSE(core::decode_device_message(bytes.substr(0, size)).has_value());
  for (const std::size_t at : {22U, 23U}) { // kind, window
    auto bad = bytes;
    bad[at] = '\x09';
    CHECK_FALSE(core::decode_device_message(bad).has_value());
  }
}
