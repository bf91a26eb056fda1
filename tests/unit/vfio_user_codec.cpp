// Commands and replies: what is understood, what each reply looks like, what is refused.
#include "catch.hpp"
#include "user/codec.hpp"
#include "vfio_user_raw.hpp"

#include <fcntl.h>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::vfio::user;
using smartio::test::Bytes;
using smartio::test::join;
using smartio::test::raw;

namespace {

std::vector<Fd> descriptors(std::size_t count) {
  std::vector<Fd> fds;
  while (fds.size() < count) fds.push_back(make_eventfd().value());
  return fds;
}

/// The errno a command is refused with, 0 when it is not.
int refusal(Command command, const Bytes& payload, std::size_t fds = 0) {
  const auto request = decode_request(command, payload, descriptors(fds));
  return request ? 0 : request.error();
}

template <class T> T request_of(Command command, const Bytes& payload, std::size_t fds = 0) {
  auto request = decode_request(command, payload, descriptors(fds));
  REQUIRE(request);
  REQUIRE(std::holds_alternative<T>(*request));
  return std::get<T>(std::move(*request));
}

Bytes bytes_in(const Payload& payload) { return join(payload.body.bytes(), payload.tail); }

constexpr std::uint64_t top = UINT64_MAX - 4095; // the last page

Bytes map(std::uint32_t argsz, std::uint32_t flags, std::uint64_t offset, std::uint64_t iova, std::uint64_t size) {
  return raw(DmaMapBody{argsz, flags, offset, iova, size});
}
Bytes unmap(std::uint32_t argsz, std::uint32_t flags, std::uint64_t iova, std::uint64_t size) {
  return raw(DmaUnmapBody{argsz, flags, iova, size});
}
Bytes irqs(std::uint32_t flags, std::uint32_t index, std::uint32_t start, std::uint32_t count, std::size_t more = 0) {
  return join(raw(SetIrqsBody{20, flags, index, start, count}), Bytes(more));
}

} // namespace

TEST_CASE("commands that clients send are understood") {
  const auto dma_map = request_of<DmaMap>(Command::dma_map, map(32, 3, 8192, 4096, 65536), 1);
  CHECK(dma_map.iova == Iova{4096});
  CHECK(dma_map.size == 65536);
  CHECK(dma_map.offset == 8192);
  CHECK(dma_map.access == Access::read_write);
  CHECK(dma_map.fd);
  CHECK(request_of<DmaMap>(Command::dma_map, map(32, 1, 0, 0, 4096)).access == Access::read); // no descriptor
  CHECK(request_of<DmaMap>(Command::dma_map, map(32, 1, 0, top, 4096)).size == 4096);         // ends at 2^64

  const auto dma_unmap = request_of<DmaUnmap>(Command::dma_unmap, unmap(24, 0, 0xfef00000, 0xffffffff01100000));
  CHECK(dma_unmap.iova == Iova{0xfef00000}); // QEMU's, whose end is 2^64
  CHECK_FALSE(dma_unmap.all);
  CHECK(request_of<DmaUnmap>(Command::dma_unmap, unmap(24, 2, 0, 0)).all);
  request_of<DmaUnmap>(Command::dma_unmap, unmap(24, 0, 0, 4096), 1); // SPDK sends a descriptor

  request_of<GetInfo>(Command::get_info, raw(InfoBody{16, 0, 0, 0}));
  request_of<GetInfo>(Command::get_info, raw(InfoBody{32, 0, 0, 0})); // Cloud Hypervisor counts the header
  CHECK(request_of<GetRegionInfo>(Command::get_region_info, raw(RegionInfoBody{32, 0, 7, 0, 0, 0})).index == 7);
  const auto roomy = join(raw(RegionInfoBody{4064, 0, 1, 0, 0, 0}), Bytes(4032)); // SPDK
  CHECK(request_of<GetRegionInfo>(Command::get_region_info, roomy).index == 1);
  CHECK(request_of<GetIrqInfo>(Command::get_irq_info, raw(IrqInfoBody{16, 0, 2, 0})).index == 2);

  const auto read = request_of<RegionRead>(Command::region_read, raw(AccessBody{16, 7, 1048576}));
  CHECK((read.offset == 16 && read.region == 7 && read.count == 1048576));
  const auto write = request_of<RegionWrite>(Command::region_write, join(raw(AccessBody{8, 0, 2}), Bytes(2)));
  CHECK((write.offset == 8 && write.region == 0 && write.data.size() == 2));
  request_of<Reset>(Command::reset, {});
}

TEST_CASE("SET_IRQS is understood in all its forms") {
  const auto assign = request_of<SetIrqs>(Command::set_irqs, irqs(0x24, 2, 1, 3), 3);
  CHECK((assign.flags == 0x24 && assign.index == 2 && assign.start == 1 && assign.count == 3));
  CHECK(assign.eventfds.size() == 3);
  CHECK(request_of<SetIrqs>(Command::set_irqs, irqs(0x24, 2, 0, 1)).eventfds.empty());        // de-assign
  CHECK(request_of<SetIrqs>(Command::set_irqs, irqs(0x21, 2, 0, 0)).count == 0);              // disable all
  CHECK(request_of<SetIrqs>(Command::set_irqs, irqs(0x21, 2, 4, 1)).count == 1);              // trigger one
  CHECK(request_of<SetIrqs>(Command::set_irqs, irqs(0x09, 0, 0, 1)).count == 1);              // mask
  CHECK(request_of<SetIrqs>(Command::set_irqs, irqs(0x11, 0, 0, 1)).count == 1);              // unmask
  CHECK(request_of<SetIrqs>(Command::set_irqs, irqs(0x14, 0, 0, 1), 1).eventfds.size() == 1); // resample
  CHECK(request_of<SetIrqs>(Command::set_irqs, irqs(0x22, 2, 0, 5, 5)).bools.size() == 5);
}

TEST_CASE("malformed commands are refused with EINVAL") {
  struct Bad {
    const char* what;
    Command command;
    Bytes payload;
    std::size_t fds = 0;
  };
  const Bytes one(1);
  const Bad all[] = {
      {"map argsz 0", Command::dma_map, map(0, 3, 0, 0, 4096)},
      {"map argsz 31", Command::dma_map, map(31, 3, 0, 0, 4096)},
      {"map of nothing", Command::dma_map, map(32, 3, 0, 0, 0)},
      {"map without rights", Command::dma_map, map(32, 0, 0, 0, 4096)},
      {"map with unknown flag", Command::dma_map, map(32, 7, 0, 0, 4096)},
      {"map unaligned address", Command::dma_map, map(32, 3, 0, 1, 4096)},
      {"map unaligned size", Command::dma_map, map(32, 3, 0, 0, 4097)},
      {"map unaligned file offset", Command::dma_map, map(32, 3, 512, 0, 4096), 1},
      {"map wraps", Command::dma_map, map(32, 3, 0, top, 8192)},
      {"map of everything and more", Command::dma_map, map(32, 3, 0, 8192, top)},
      {"map file offset beyond any file", Command::dma_map, map(32, 3, 1ULL << 63, 0, 4096), 1},
      {"map file end wraps", Command::dma_map, map(32, 3, top, 0, 8192), 1},
      {"map with two descriptors", Command::dma_map, map(32, 3, 0, 0, 4096), 2},
      {"map too short", Command::dma_map, Bytes(31)},
      {"map too long", Command::dma_map, join(map(32, 3, 0, 0, 4096), one)},
      {"unmap argsz 15", Command::dma_unmap, unmap(15, 0, 0, 4096)},
      {"unmap of nothing", Command::dma_unmap, unmap(24, 0, 4096, 0)},
      {"unmap unaligned", Command::dma_unmap, unmap(24, 0, 1, 4096)},
      {"unmap unaligned size", Command::dma_unmap, unmap(24, 0, 0, 100)},
      {"unmap wraps", Command::dma_unmap, unmap(24, 0, top, 8192)},
      {"unmap unknown flag", Command::dma_unmap, unmap(24, 4, 0, 4096)},
      {"unmap all with an address", Command::dma_unmap, unmap(24, 2, 4096, 0)},
      {"unmap all with a size", Command::dma_unmap, unmap(24, 2, 0, 4096)},
      {"unmap too short", Command::dma_unmap, Bytes(23)},
      {"unmap too long", Command::dma_unmap, join(unmap(24, 0, 0, 4096), one)},
      {"info argsz 0", Command::get_info, raw(InfoBody{0, 0, 0, 0})},
      {"info argsz 15", Command::get_info, raw(InfoBody{15, 0, 0, 0})},
      {"info too short", Command::get_info, Bytes(15)},
      {"region info argsz 31", Command::get_region_info, raw(RegionInfoBody{31, 0, 0, 0, 0, 0})},
      {"region info too short", Command::get_region_info, Bytes(31)},
      {"irq info argsz 15", Command::get_irq_info, raw(IrqInfoBody{15, 0, 0, 0})},
      {"irq info too short", Command::get_irq_info, Bytes(12)},
      {"irqs argsz 19", Command::set_irqs, raw(SetIrqsBody{19, 0x21, 0, 0, 0})},
      {"irqs too short", Command::set_irqs, Bytes(19)},
      {"irqs no flags", Command::set_irqs, irqs(0, 2, 0, 1)},
      {"irqs no action", Command::set_irqs, irqs(0x04, 2, 0, 1), 1},
      {"irqs no data", Command::set_irqs, irqs(0x20, 2, 0, 1)},
      {"irqs two actions", Command::set_irqs, irqs(0x31, 2, 0, 1)},
      {"irqs two kinds of data", Command::set_irqs, irqs(0x25, 2, 0, 1), 1},
      {"irqs unknown flag", Command::set_irqs, irqs(0x61, 2, 0, 1)},
      {"irqs fewer descriptors", Command::set_irqs, irqs(0x24, 2, 0, 3), 2},
      {"irqs more descriptors", Command::set_irqs, irqs(0x24, 2, 0, 1), 2},
      {"irqs descriptor with NONE", Command::set_irqs, irqs(0x21, 2, 0, 1), 1},
      {"irqs descriptor with count 0", Command::set_irqs, irqs(0x21, 2, 0, 0), 1},
      {"irqs descriptor with BOOL", Command::set_irqs, irqs(0x22, 2, 0, 1, 1), 1},
      {"irqs BOOL too short", Command::set_irqs, irqs(0x22, 2, 0, 5, 4)},
      {"irqs BOOL too long", Command::set_irqs, irqs(0x22, 2, 0, 5, 6)},
      {"irqs BOOL of absurd count", Command::set_irqs, irqs(0x22, 2, 0, UINT32_MAX, 5)},
      {"irqs NONE with data", Command::set_irqs, irqs(0x21, 2, 0, 1, 1)},
      {"irqs eventfd with data", Command::set_irqs, irqs(0x24, 2, 0, 1, 4), 1},
      {"irqs count 0 from 1 on", Command::set_irqs, irqs(0x21, 2, 1, 0)},
      {"irqs mask none", Command::set_irqs, irqs(0x09, 0, 0, 0)},
      {"irqs eventfd count 0", Command::set_irqs, irqs(0x24, 2, 0, 0)},
      {"irqs BOOL count 0", Command::set_irqs, irqs(0x22, 2, 0, 0)},
      {"read of nothing", Command::region_read, raw(AccessBody{0, 7, 0})},
      {"read too much", Command::region_read, raw(AccessBody{0, 7, max_transfer + 1})},
      {"read wraps", Command::region_read, raw(AccessBody{UINT64_MAX - 3, 7, 8})},
      {"read with data", Command::region_read, join(raw(AccessBody{0, 7, 1}), one)},
      {"read too short", Command::region_read, Bytes(15)},
      {"write of nothing", Command::region_write, raw(AccessBody{0, 7, 0})},
      {"write count above data", Command::region_write, join(raw(AccessBody{0, 7, 2}), one)},
      {"write count below data", Command::region_write, join(raw(AccessBody{0, 7, 1}), Bytes(2))},
      {"write wraps", Command::region_write, join(raw(AccessBody{UINT64_MAX, 7, 1}), one)},
      {"write too short", Command::region_write, Bytes(8)},
      {"reset with a payload", Command::reset, one},
      {"VERSION as a request", Command::version, {}},
      {"DMA_READ from a client", Command::dma_read, raw(DmaAccessBody{0, 1})},
      {"DEVICE_FEATURE", Command::device_feature, Bytes(8)},
      {"nothing at all", Command::region_write, {}},
  };
  for (const auto& bad : all) {
    CAPTURE(bad.what);
    CHECK(refusal(bad.command, bad.payload, bad.fds) == EINVAL);
  }
}

TEST_CASE("commands that no server must know are refused") {
  for (const int number : {0, 6, 14, 15, 17, 18, 19, 255, 65535}) {
    CAPTURE(number);
    CHECK(refusal(static_cast<Command>(number), Bytes(64)) == EOPNOTSUPP);
  }
  CHECK(refusal(Command::dma_unmap, join(unmap(40, 1, 0, 4096), Bytes(24))) == EOPNOTSUPP); // dirty bitmap
}

TEST_CASE("descriptors of a refused command are closed") {
  const auto before = smartio::test::open_descriptors();
  for (int number = 0; number < 20; ++number) refusal(static_cast<Command>(number), Bytes(32), 5);
  CHECK(smartio::test::open_descriptors() == before);
}

TEST_CASE("replies have exactly the sizes that clients expect") {
  const auto size = [](Command command, const Bytes& sent, const Answer& answer) {
    const auto payload = encode_answer(command, sent, answer);
    REQUIRE(payload);
    return bytes_in(*payload).size();
  };
  CHECK(size(Command::dma_map, map(32, 3, 0, 0, 4096), Done{}) == 0);
  CHECK(size(Command::dma_unmap, unmap(24, 0, 0, 4096), Unmapped{4096}) == 24);
  CHECK(size(Command::get_info, raw(InfoBody{16, 0, 0, 0}), Info{3, 9, 5}) == 16);
  CHECK(size(Command::get_irq_info, raw(IrqInfoBody{16, 0, 0, 0}), IrqInfo{1, 1}) == 16);
  CHECK(size(Command::set_irqs, irqs(0x21, 2, 0, 0), Done{}) == 0);
  CHECK(size(Command::region_read, raw(AccessBody{0, 0, 5}), Data{Bytes(5)}) == 16 + 5);
  CHECK(size(Command::region_write, join(raw(AccessBody{0, 0, 5}), Bytes(5)), Done{}) == 16);
  CHECK(size(Command::reset, {}, Done{}) == 0);
}

TEST_CASE("the reply to an unmap is the request's entry, however much of it was mapped") {
  for (const auto& sent : {unmap(24, 0, 0x1000, 8192), unmap(24, unmap_flag_all, 0, 0)})
    for (const std::uint64_t bytes : {0, 4096, 65536}) {
      const auto payload = encode_answer(Command::dma_unmap, sent, Unmapped{bytes});
      REQUIRE(payload);
      CHECK(std::ranges::equal(payload->body.bytes(), sent));
    }
}

TEST_CASE("an answer that does not belong to its command is EIO") {
  CHECK(encode_answer(Command::get_info, {}, Done{}).error() == EIO);
  CHECK(encode_answer(Command::region_write, {}, Data{}).error() == EIO);
  CHECK(encode_answer(Command::region_read, raw(AccessBody{0, 0, 5}), Data{Bytes(4)}).error() == EIO);
  CHECK(encode_answer(Command::dma_unmap, {}, Done{}).error() == EIO);
  CHECK(encode_answer(Command::dma_map, {}, Unmapped{1}).error() == EIO);
}

TEST_CASE("a region's info comes whole, with one descriptor, only when it fits") {
  RegionInfo info{.flags = region_flag_read | region_flag_write, .size = 16384};
  info.areas = {{0, 4096}, {8192, 8192}};
  info.fd = make_eventfd().value();
  info.fd_offset = 65536;

  const auto brief = encode_region_info(raw(RegionInfoBody{32, 0, 0, 0, 0, 0}), info);
  const auto head = load<RegionInfoBody>(brief.body.bytes());
  REQUIRE(bytes_in(brief).size() == 32);
  CHECK((head->argsz == 64 && head->cap_offset == 0 && head->size == 16384));
  CHECK(head->flags == (region_flag_read | region_flag_write | region_flag_mmap)); // no capability is there yet
  CHECK(brief.fds.empty());

  const auto whole = encode_region_info(raw(RegionInfoBody{64, 0, 0, 0, 0, 0}), info);
  REQUIRE(bytes_in(whole).size() == 64);
  CHECK((load<RegionInfoBody>(whole.body.bytes())->flags & region_flag_caps) != 0);
  CHECK(load<RegionInfoBody>(whole.body.bytes())->cap_offset == 32);
  CHECK(load<RegionInfoBody>(whole.body.bytes())->offset == 65536);
  CHECK(load<SparseCap>(whole.body.bytes().subspan(32))->areas == 1); // the longest one
  CHECK(load<SparseArea>(whole.body.bytes().subspan(48))->offset == 8192);
  CHECK(whole.fds == std::vector{info.fd.get()});
}

TEST_CASE("a region mapped as a whole needs no capability") {
  RegionInfo info{.flags = region_flag_read, .size = 4096};
  info.areas = {{0, 4096}};
  info.fd = make_eventfd().value();
  const auto payload = encode_region_info(raw(RegionInfoBody{32, 0, 0, 0, 0, 0}), info);
  CHECK(bytes_in(payload).size() == 32);
  CHECK(load<RegionInfoBody>(payload.body.bytes())->flags == (region_flag_read | region_flag_mmap));
  CHECK(payload.fds.size() == 1);
}

TEST_CASE("a region that cannot be mapped has no flag and no descriptor") {
  const auto payload = encode_region_info(raw(RegionInfoBody{4096, 0, 3, 0, 0, 0}), RegionInfo{.flags = 7, .size = 0});
  const auto head = load<RegionInfoBody>(payload.body.bytes());
  CHECK((head->argsz == 32 && head->flags == 3 && head->index == 3 && head->size == 0));
  CHECK(payload.fds.empty());
}

TEST_CASE("each request survives encoding and decoding") {
  const auto again = [](const Request& request) {
    const auto payload = encode_request(request);
    auto decoded = decode_request(command_of(request), bytes_in(payload), descriptors(payload.fds.size()));
    REQUIRE(decoded);
    CHECK(decoded->index() == request.index());
    CHECK(bytes_in(encode_request(*decoded)) == bytes_in(payload));
    CHECK(encode_request(*decoded).fds.size() == payload.fds.size());
  };
  again(GetInfo{});
  again(GetRegionInfo{3});
  again(GetIrqInfo{2});
  again(SetIrqs{0x24, 2, 5, 4, {}, descriptors(4)});
  again(SetIrqs{0x22, 2, 5, 4, {1, 0, 1, 0}, {}});
  again(RegionRead{7, 4, 8});
  again(RegionWrite{0, 4, Bytes(8)});
  again(DmaMap{Iova{4096}, 8192, Access::write, make_eventfd().value(), 4096});
  again(DmaMap{Iova{4096}, 8192, Access::read, {}, 0});
  again(DmaUnmap{Iova{4096}, 8192});
  again(DmaUnmap{Iova{0}, 0, true});
  again(Reset{});
}

TEST_CASE("where windows can be is told to whoever has room for it") {
  Info info{3 | info_flag_caps, 9, 5, {{0, 0xfedfffff}, {0xfef00000, UINT64_MAX}}};
  const auto told = [&info](std::uint32_t argsz) {
    const Answer answer = info; // the payload borrows from it
    const auto payload = encode_answer(Command::get_info, raw(InfoBody{argsz, 0, 0, 0}), answer).value();
    const auto bytes = bytes_in(payload);
    CHECK(load<InfoBody>(bytes)->argsz == bytes.size());
    return std::get<Info>(*decode_answer(Command::get_info, {}, bytes, {}));
  };
  CHECK(told(72).iovas == info.iovas);
  CHECK(told(72).flags == 3); // what the device says of capabilities is not passed on
  for (const auto argsz : {16U, 71U}) CHECK(told(argsz).iovas.empty());
  const auto asked = bytes_in(encode_request(GetInfo{}));
  CHECK(load<InfoBody>(asked)->argsz >= 72);
  for (std::uint64_t i = 2; i < 100; ++i) info.iovas.push_back({i << 40, i << 40});
  info.iovas[1].last = 0xfef00000;
  CHECK(std::get<Info>(
            *decode_answer(Command::get_info, {}, bytes_in(encode_answer(Command::get_info, asked, info).value()), {}))
            .iovas.size() == most_iova_ranges); // those that are left out are not used
}

TEST_CASE("an info's capabilities that are not known, or not there, are passed over") {
  const auto body = raw(InfoBody{24, 3 | info_flag_caps, 9, 5});
  for (const auto& reply :
       {body, join(body, raw(InfoCaps{0, 0})), join(body, raw(InfoCaps{24, 0}), raw(IovaCap{1, 1, 0, 0, 0}))}) {
    const auto info = decode_answer(Command::get_info, {}, reply, {});
    REQUIRE(info);
    CHECK(std::get<Info>(*info).regions == 9);
    CHECK(std::get<Info>(*info).flags == 3);
    CHECK(std::get<Info>(*info).iovas.empty());
  }
}

TEST_CASE("replies of servers are understood") {
  const auto info = decode_answer(Command::get_info, {}, raw(InfoBody{16, 3, 9, 5}), {});
  CHECK(std::get<Info>(*info).regions == 9);
  const auto irq =
      decode_answer(Command::get_irq_info, raw(IrqInfoBody{16, 0, 2, 0}), raw(IrqInfoBody{16, 9, 2, 65}), {});
  CHECK(std::get<IrqInfo>(*irq).count == 65);
  const auto asked = raw(AccessBody{4, 1, 3});
  const auto data = decode_answer(Command::region_read, asked, join(asked, Bytes(3)), {});
  CHECK(std::get<Data>(*data).bytes.size() == 3);
  CHECK(decode_answer(Command::region_write, asked, asked, {}));
  CHECK(std::get<Unmapped>(*decode_answer(Command::dma_unmap, {}, unmap(24, 0, 0, 8192), {})).size == 8192);
  CHECK(decode_answer(Command::reset, {}, {}, {}));
}

TEST_CASE("a region's info from a server is understood") {
  const auto asked = raw(RegionInfoBody{4096, 0, 0, 0, 0, 0});
  const auto flags = region_flag_read | region_flag_mmap | region_flag_caps;
  SECTION("with a capability, behind another one") {
    struct Other {
      std::uint16_t id = 9, version = 1;
      std::uint32_t next = 40;
    };
    const auto reply = join(raw(RegionInfoBody{72, flags, 0, 32, 16384, 4096}), raw(Other{}),
                            raw(SparseCap{1, 1, 0, 1, 0}), raw(SparseArea{4096, 8192}));
    auto answer = decode_answer(Command::get_region_info, asked, reply, descriptors(1));
    REQUIRE(answer);
    const auto& info = std::get<RegionInfo>(*answer);
    CHECK(info.areas == std::vector<RegionArea>{{4096, 8192}});
    CHECK((info.fd && info.fd_offset == 4096 && info.size == 16384));
    CHECK(info.flags == (region_flag_read | region_flag_mmap));
  }
  SECTION("mapped as a whole") {
    const auto reply = raw(RegionInfoBody{32, region_flag_read | region_flag_mmap, 0, 0, 16384, 0});
    const auto answer = decode_answer(Command::get_region_info, asked, reply, descriptors(1));
    CHECK(std::get<RegionInfo>(*answer).areas == std::vector<RegionArea>{{0, 16384}});
  }
  SECTION("several descriptors: the first goes with the first area") {
    const auto reply = join(raw(RegionInfoBody{80, flags, 0, 32, 16384, 0}), raw(SparseCap{1, 1, 0, 2, 0}),
                            raw(SparseArea{0, 4096}), raw(SparseArea{8192, 4096}));
    const auto answer = decode_answer(Command::get_region_info, asked, reply, descriptors(2));
    CHECK(std::get<RegionInfo>(*answer).areas == std::vector<RegionArea>{{0, 4096}});
  }
  SECTION("cut: says how much it needs") {
    const auto reply = raw(RegionInfoBody{5000, flags, 0, 0, 16384, 0});
    CHECK(wanted_argsz(asked, reply) == 5000U);
    CHECK(std::get<RegionInfo>(*decode_answer(Command::get_region_info, asked, reply, {})).areas.empty());
  }
}

TEST_CASE("malformed replies of servers are refused") {
  struct Bad {
    const char* what;
    Command command;
    Bytes sent, payload;
    std::size_t fds = 0;
  };
  const auto access = raw(AccessBody{0, 0, 4});
  const auto asked = raw(RegionInfoBody{4096, 0, 0, 0, 0, 0});
  const auto caps = region_flag_mmap | region_flag_caps;
  const auto info = [](std::uint32_t flags, std::uint32_t cap, std::uint64_t size = 8192, std::uint64_t offset = 0) {
    return raw(RegionInfoBody{64, flags, 0, cap, size, offset});
  };
  const auto sparse = [](std::uint32_t count, std::uint64_t offset, std::uint64_t size) {
    return join(raw(SparseCap{1, 1, 0, count, 0}), raw(SparseArea{offset, size}));
  };
  const auto ranges = [](std::uint32_t count, std::vector<IovaRange> told, std::uint32_t cap = 24) {
    auto bytes =
        join(raw(InfoBody{64, info_flag_caps, 9, 5}), raw(InfoCaps{cap, 0}), raw(IovaCap{iova_cap_id, 1, 0, count, 0}));
    for (const auto& range : told) bytes = join(bytes, raw(range));
    return bytes;
  };
  auto many = raw(SparseCap{1, 1, 0, 257, 0});
  for (int i = 0; i < 257; ++i) many = join(many, raw(SparseArea{0, 4096}));
  const Bad all[] = {
      {"info too short", Command::get_info, {}, Bytes(15)},
      {"info: capability in the header", Command::get_info, {}, ranges(1, {{0, 1}}, 16)},
      {"info: capability outside", Command::get_info, {}, ranges(1, {{0, 1}}, 57)},
      {"info: ranges missing", Command::get_info, {}, ranges(2, {{0, 1}})},
      {"info: ranges absurd", Command::get_info, {}, ranges(UINT32_MAX, {{0, 1}})},
      {"info: range backwards", Command::get_info, {}, ranges(1, {{1, 0}})},
      {"info: ranges overlap", Command::get_info, {}, ranges(2, {{0, 8}, {8, 9}})},
      {"info: ranges descend", Command::get_info, {}, ranges(2, {{8, 9}, {0, 1}})},
      {"info with descriptor", Command::get_info, {}, Bytes(16), 1},
      {"irq info of another index", Command::get_irq_info, raw(IrqInfoBody{16, 0, 2, 0}),
       raw(IrqInfoBody{16, 0, 1, 0})},
      {"read: another count", Command::region_read, access, join(raw(AccessBody{0, 0, 5}), Bytes(5))},
      {"read: less data", Command::region_read, access, join(access, Bytes(3))},
      {"read: more data", Command::region_read, access, join(access, Bytes(5))},
      {"read: nothing", Command::region_read, access, {}},
      {"write: nothing", Command::region_write, access, {}},
      {"write: another count", Command::region_write, access, raw(AccessBody{0, 0, 3})},
      {"unmap: nothing", Command::dma_unmap, {}, {}},
      {"map: something", Command::dma_map, {}, Bytes(32)},
      {"map: descriptor", Command::dma_map, {}, {}, 1},
      {"irqs: something", Command::set_irqs, {}, Bytes(1)},
      {"region: too short", Command::get_region_info, asked, Bytes(31)},
      {"region: another", Command::get_region_info, asked, raw(RegionInfoBody{32, 0, 1, 0, 0, 0})},
      {"region: descriptor without flag", Command::get_region_info, asked, info(0, 0), 1},
      {"region: capability in the header", Command::get_region_info, asked, join(info(caps, 16), Bytes(32)), 1},
      {"region: capability outside", Command::get_region_info, asked, join(info(caps, 4000), Bytes(32)), 1},
      {"region: capability at the end", Command::get_region_info, asked, join(info(caps, 64), Bytes(32)), 1},
      {"region: capability offset 2^32-1", Command::get_region_info, asked, join(info(caps, UINT32_MAX), Bytes(32)), 1},
      {"region: chain of itself", Command::get_region_info, asked,
       join(info(caps, 32), raw(SparseCap{9, 1, 32, 0, 0}), Bytes(16)), 1},
      {"region: areas missing", Command::get_region_info, asked, join(info(caps, 32), sparse(2, 0, 4096)), 1},
      {"region: areas absurd", Command::get_region_info, asked, join(info(caps, 32), sparse(UINT32_MAX, 0, 4096)), 1},
      {"region: more areas than a region has", Command::get_region_info, asked, join(info(caps, 32), many), 1},
      {"region: area outside", Command::get_region_info, asked, join(info(caps, 32), sparse(1, 4096, 8192)), 1},
      {"region: area wraps", Command::get_region_info, asked, join(info(caps, 32), sparse(1, UINT64_MAX, 2)), 1},
      {"region: area empty", Command::get_region_info, asked, join(info(caps, 32), sparse(1, 0, 0)), 1},
      {"region: file offset absurd", Command::get_region_info, asked,
       join(info(caps, 32, 8192, UINT64_MAX - 4095), sparse(1, 0, 4096)), 1},
      {"unknown command", Command::mig_data_read, {}, {}},
  };
  for (const auto& bad : all) {
    CAPTURE(bad.what);
    CHECK_FALSE(decode_answer(bad.command, bad.sent, bad.payload, descriptors(bad.fds)));
  }
}

TEST_CASE("message DMA is understood, and refused when its count is not its data's") {
  const auto body = [](std::uint64_t count) { return raw(DmaAccessBody{4096, count}); };
  CHECK(decode_dma(body(8), false)->count == 8);
  CHECK(decode_dma(join(body(8), Bytes(8)), true)->data.size() == 8);
  CHECK_FALSE(decode_dma(body(0), false));
  CHECK_FALSE(decode_dma(body(max_transfer + 1), false));
  CHECK_FALSE(decode_dma(body(1ULL << 32), false));
  CHECK_FALSE(decode_dma(join(body(8), Bytes(8)), false));
  CHECK_FALSE(decode_dma(join(body(8), Bytes(7)), true));
  CHECK_FALSE(decode_dma(Bytes(15), false));
}
