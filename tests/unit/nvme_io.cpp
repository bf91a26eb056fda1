// The simulated NVMe controller's I/O commands and the pages they move data through.
#include "nvme_host.hpp"

#include <algorithm>

using namespace smartio;
using namespace smartio::testing;
namespace opcode = smartio::sim::nvme::io_opcode;

namespace {

struct Enabled : NvmeHost {
  Enabled() { enable(); }
  std::span<const std::byte> memory_at(std::uint64_t address, std::size_t size) const { return bytes(address, size); }
  bool file_holds(std::uint64_t offset, std::uint64_t address, std::size_t size) const {
    return std::ranges::equal(file_bytes(offset, size), bytes(address, size));
  }
  bool file_is_zero(std::uint64_t offset, std::size_t size) const {
    return std::ranges::all_of(file_bytes(offset, size), [](std::byte byte) { return byte == std::byte{0}; });
  }
  /// Lays out a PRP list for `bytes` from `from` on, at `list`; chains to the next page when this one ends.
  void make_list(std::uint64_t entry, std::uint64_t from, std::uint64_t bytes) {
    for (std::uint64_t pages = (bytes + 4095) / 4096; pages > 0; --pages, from += 4096) {
      if (entry % 4096 == 4088 && pages > 1) {
        store(entry, (entry & ~0xfffULL) + 4096);
        entry += 8;
      }
      store(entry, from);
      entry += 8;
    }
  }
  static constexpr std::uint64_t list = base + 0x600000, back = base + 0x300000;
};

} // namespace

TEST_CASE_METHOD(Enabled, "what is written is in the file and is read back") {
  fill(data, 4096, 1);
  REQUIRE(io(opcode::write, 5, 8).status == Status::success);
  CHECK(file_holds(5 * 512, data, 4096));
  REQUIRE(io(opcode::read, 5, 8, back).status == Status::success);
  CHECK(std::ranges::equal(memory_at(data, 4096), memory_at(back, 4096)));
}

TEST_CASE_METHOD(Enabled, "transfers of every shape of PRP") {
  struct Shape {
    std::uint64_t offset, blocks, list_offset;
  };
  const auto shape = GENERATE(Shape{0, 1, 0}, Shape{4, 1, 0}, Shape{0xffc, 1, 0}, Shape{0, 16, 0}, Shape{0xe00, 8, 0},
                              Shape{0, 17, 0}, Shape{0x204, 17, 0}, Shape{0, 2048, 0}, Shape{0xffc, 2048, 0},
                              Shape{0, 2048, 0xff0}, Shape{4, 2048, 0xff8}, Shape{0, 2048, 0x808}, Shape{0, 24, 0xff8});
  CAPTURE(shape.offset, shape.blocks, shape.list_offset);
  const std::uint64_t size = shape.blocks * 512, first = 4096 - shape.offset;
  const auto prp2 = [this, &shape, size, first](std::uint64_t address) {
    if (size <= first) return std::uint64_t{0x123};
    if (size - first <= 4096) return address + first;
    make_list(list + shape.list_offset, address + first, size - first);
    return list + shape.list_offset;
  };
  const auto blocks = static_cast<std::uint32_t>(shape.blocks);
  fill(data + shape.offset, size, 3);
  REQUIRE(io(opcode::write, 100, blocks, data + shape.offset, prp2(data + shape.offset)).status == Status::success);
  CHECK(file_holds(100 * 512, data + shape.offset, size));
  std::memset(at(back), 0xee, 0x102000);
  REQUIRE(io(opcode::read, 100, blocks, back + shape.offset, prp2(back + shape.offset)).status == Status::success);
  CHECK(std::ranges::equal(memory_at(data + shape.offset, size), memory_at(back + shape.offset, size)));
  CHECK(*at(back + shape.offset + size) == std::byte{0xee});
  CHECK((shape.offset == 0 || *at(back + shape.offset - 1) == std::byte{0xee}));
  CHECK(io(opcode::compare, 100, blocks, data + shape.offset, prp2(data + shape.offset)).status == Status::success);
}

TEST_CASE_METHOD(Enabled, "hostile PRPs are refused, and nothing is moved") {
  fill(data, 8192, 9);
  const auto write = [this](std::uint32_t blocks, std::uint64_t prp1, std::uint64_t prp2) {
    return io(opcode::write, 0, blocks, prp1, prp2).status;
  };
  CHECK(write(1, data + 2, 0) == Status::invalid_prp_offset);
  CHECK(write(16, data, data + 8) == Status::invalid_prp_offset);
  CHECK(write(24, data, list + 4) == Status::invalid_prp_offset);
  CHECK(write(1, 0, 0) == Status::data_transfer_error);
  CHECK(write(1, UINT64_MAX - 3, 0) == Status::data_transfer_error);
  CHECK(write(8, base + memory_bytes - 4096 + 512, base + memory_bytes) == Status::data_transfer_error);
  CHECK(write(24, data, 0xfffffffffffffff8) == Status::data_transfer_error); // list out of reach
  store(list, data + 4096);
  store(list + 8, data + 4100);
  CHECK(write(24, data, list) == Status::invalid_prp_offset); // entry within a page
  store(list + 8, UINT64_MAX & ~0xfffULL);
  CHECK(write(24, data, list) == Status::data_transfer_error);
  store(list + 0xff8, list + 0xff8); // a chain that points into a page
  CHECK(write(24, data, list + 0xff8) == Status::invalid_prp_offset);
  CHECK(file_is_zero(0, 16384));
}

TEST_CASE_METHOD(Enabled, "a PRP list that chains to itself ends") {
  for (std::uint64_t i = 0; i < 512; ++i) store(list + 8 * i, data);
  store(list + 0xff8, list);
  CHECK(io(opcode::write, 0, 2048, data, list + 0xff8).status == Status::success);
}

TEST_CASE_METHOD(Enabled, "transfers beyond the maximum are refused") {
  make_list(list, data, 2 << 20);
  CHECK(io(opcode::read, 0, 2049, data, list).status == Status::invalid_field);
  CHECK(io(opcode::write, 0, 4096, data, list).status == Status::invalid_field);
}

TEST_CASE_METHOD(Enabled, "blocks outside the namespace are refused by every command") {
  for (const std::uint8_t code : {opcode::read, opcode::write, opcode::compare, opcode::write_zeroes}) {
    CHECK(io(code, 8192, 1).status == Status::lba_out_of_range);
    CHECK(io(code, 8191, 2).status == Status::lba_out_of_range);
    CHECK(io(code, UINT64_MAX, 1).status == Status::lba_out_of_range);
    CHECK(io(code, UINT64_MAX, 2).status == Status::lba_out_of_range);
    CHECK(io(code, 8191, 1).status != Status::lba_out_of_range);
  }
}

TEST_CASE_METHOD(Enabled, "unknown commands and namespaces are refused") {
  for (const unsigned code : {0x03U, 0x04U, 0x0cU, 0x0dU, 0x0eU, 0x11U, 0x80U, 0xffU})
    CHECK(io(static_cast<std::uint8_t>(code), 0, 1).status == Status::invalid_opcode);
  io(opcode::read, 0, 1);
  SubmissionEntry entry{};
  entry.prp1 = data;
  for (const std::uint8_t code : {opcode::flush, opcode::read, opcode::write, opcode::dataset_management}) {
    entry.opcode = code;
    for (const std::uint32_t nsid : {0U, 2U, 0xfffffffeU}) {
      entry.nsid = nsid;
      CHECK(run(io_queue, entry).status == Status::invalid_namespace);
    }
  }
  entry.opcode = opcode::flush;
  entry.nsid = nvme::all_namespaces;
  CHECK(run(io_queue, entry).status == Status::success);
  entry.opcode = opcode::read;
  CHECK(run(io_queue, entry).status == Status::invalid_namespace);
}

TEST_CASE_METHOD(Enabled, "compare finds one differing byte") {
  fill(data, 4096, 1);
  REQUIRE(io(opcode::write, 0, 8).status == Status::success);
  CHECK(io(opcode::compare, 0, 8).status == Status::success);
  at(data)[4095] ^= std::byte{1};
  CHECK(io(opcode::compare, 0, 8).status == Status::compare_failure);
}

TEST_CASE_METHOD(Enabled, "zeroed and deallocated blocks read as zeros, their neighbours stay") {
  constexpr std::uint32_t deallocate = 1U << 25;
  const auto how = GENERATE(0, 1, 2);
  fill(data, 65536, 5);
  make_list(list, data + 4096, 65536 - 4096);
  REQUIRE(io(opcode::write, 0, 128, data, list).status == Status::success);
  if (how < 2) {
    REQUIRE(io(opcode::write_zeroes, 3, 60, 0, 0, how == 0 ? 0 : deallocate).status == Status::success);
  } else {
    store(data + 0x10000, 0U);
    store(data + 0x10004, 60U);
    store(data + 0x10008, std::uint64_t{3});
    SubmissionEntry entry{};
    entry.opcode = opcode::dataset_management;
    entry.nsid = 1;
    entry.prp1 = data + 0x10000;
    entry.cdw11 = 4;
    REQUIRE(run(io_queue, entry).status == Status::success);
  }
  CHECK(file_holds(0, data, 3 * 512));
  CHECK(file_is_zero(3 * 512, 60 * 512));
  CHECK(file_holds(63 * 512, data + 63 * 512, 65 * 512));
}

TEST_CASE_METHOD(Enabled, "dataset management checks all its ranges first") {
  fill(data, 512, 5);
  REQUIRE(io(opcode::write, 0, 1).status == Status::success);
  SubmissionEntry entry{};
  entry.opcode = opcode::dataset_management;
  entry.nsid = 1;
  entry.prp1 = data + 0x1000;
  entry.cdw10 = 1;
  entry.cdw11 = 4;
  std::memset(at(data + 0x1000), 0, 32);
  store(data + 0x1004, 1U);
  store(data + 0x1014, 0xffffffffU);
  CHECK(run(io_queue, entry).status == Status::lba_out_of_range);
  CHECK(file_holds(0, data, 512));
  entry.cdw11 = 0; // hints only
  store(data + 0x1014, 0U);
  CHECK(run(io_queue, entry).status == Status::success);
  CHECK(file_holds(0, data, 512));
  entry.prp1 = 0x4000;
  CHECK(run(io_queue, entry).status == Status::data_transfer_error);
}

TEST_CASE_METHOD(Enabled, "flush, forced unit access and a write cache that is off succeed") {
  fill(data, 512, 7);
  CHECK(io(opcode::write, 0, 1, data, 0, 1U << 30).status == Status::success);
  SubmissionEntry entry{};
  entry.opcode = nvme::admin_opcode::set_features;
  entry.cdw10 = nvme::feature::write_cache;
  CHECK(admin(entry).status == Status::success);
  CHECK(io(opcode::write, 1, 1).status == Status::success);
  CHECK(file_holds(512, data, 512));
}

TEST_CASE_METHOD(Enabled, "a window withdrawn before the command is a transfer error, not a crash") {
  io(opcode::read, 0, 1);
  constexpr std::uint64_t elsewhere = 0x40000000;
  REQUIRE(map(elsewhere, 0x10000, Access::read_write, memory_fd.get(), 0x200000) == 0);
  CHECK(io(opcode::read, 0, 8, elsewhere).status == Status::success);
  SubmissionEntry entry{};
  entry.opcode = opcode::read;
  entry.nsid = 1;
  entry.prp1 = elsewhere;
  put(io_queue, entry);
  ring(io_queue);
  unmap(elsewhere, 0x10000);
  poll();
  const auto ended = take(io_queue).value();
  CHECK(ended.status == Status::data_transfer_error);
  CHECK_FALSE(ended.do_not_retry);
}

TEST_CASE_METHOD(Enabled, "memory is touched only as its window allows") {
  constexpr std::uint64_t read_only = 0x40000000, write_only = 0x50000000;
  REQUIRE(map(read_only, 0x1000, Access::read, memory_fd.get(), 0x200000) == 0);
  REQUIRE(map(write_only, 0x1000, Access::write, memory_fd.get(), 0x200000) == 0);
  CHECK(io(opcode::write, 0, 1, read_only).status == Status::success);
  CHECK(io(opcode::read, 0, 1, read_only).status == Status::data_transfer_error);
  CHECK(io(opcode::write, 0, 1, write_only).status == Status::data_transfer_error);
  CHECK(io(opcode::read, 0, 1, write_only).status == Status::success);
}
