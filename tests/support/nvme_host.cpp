#include "nvme_host.hpp"

#include <atomic>
#include <thread>
#include <unistd.h>

namespace smartio::testing {

NvmeHost::NvmeHost(std::uint64_t file_bytes, std::uint32_t block_size)
    : NvmeHost(make_memfd("disk", file_bytes).value(), block_size) {}

NvmeHost::NvmeHost(Fd disk, std::uint32_t block_size)
    : NvmeHost(
          std::make_shared<nvme::FileStore>(nvme::FileStore::from_fd(disk.duplicate().value(), block_size).value())) {
  file = std::move(disk);
}

NvmeHost::NvmeHost(std::shared_ptr<nvme::Store> store, const nvme::Shape& shape, std::uint32_t namespaces)
    : memory_fd(make_memfd("host", memory_bytes).value()),
      memory(Mapping::map(memory_fd.get(), 0, memory_bytes).value()), shape_(shape) {
  const auto identity = nvme::make_identity("/a/disk", store->blocks(), store->block_size(), namespaces);
  function = nvme::NvmeFunction::create(store, std::make_shared<nvme::Flusher>(store), identity, shape, faults).value();
  REQUIRE(map(base, memory_bytes, Access::read_write, memory_fd.get(), 0) == 0);
  const auto info = std::get<vfio::RegionInfo>(request(vfio::GetRegionInfo{0}).value());
  doorbells = Mapping::map(info.fd.get(), info.fd_offset + info.areas.at(0).offset, info.areas.at(0).size).value();
}

vfio::Reply NvmeHost::request(vfio::Request request) {
  std::optional<vfio::Reply> reply;
  function->submit(std::move(request), [&reply](vfio::Reply answer) { reply.emplace(std::move(answer)); });
  REQUIRE(reply);
  return std::move(*reply);
}

std::uint64_t NvmeHost::read(std::uint32_t region, std::uint64_t offset, unsigned width) {
  const auto answer = std::get<vfio::Data>(request(vfio::RegionRead{region, offset, width}).value()).bytes;
  REQUIRE(answer.size() == width);
  std::uint64_t value = 0;
  std::memcpy(&value, answer.data(), width);
  return value;
}

void NvmeHost::write(std::uint32_t region, std::uint64_t offset, unsigned width, std::uint64_t value) {
  std::vector<std::byte> written(width);
  std::memcpy(written.data(), &value, width);
  REQUIRE(request(vfio::RegionWrite{region, offset, std::move(written)}));
}

int NvmeHost::map(std::uint64_t iova, std::uint64_t bytes, Access access, int fd, std::uint64_t offset) {
  auto copy = fd < 0 ? Fd() : duplicate(fd).value();
  const auto reply = request(vfio::DmaMap{static_cast<Iova>(iova), bytes, access, std::move(copy), offset});
  return reply ? 0 : reply.error();
}

void NvmeHost::unmap(std::uint64_t iova, std::uint64_t bytes) {
  REQUIRE(request(vfio::DmaUnmap{static_cast<Iova>(iova), bytes}));
}

Fd NvmeHost::assign_vector(unsigned vector) {
  auto fd = make_eventfd().value();
  vfio::SetIrqs set{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, vector, 1, {}, {}};
  set.eventfds.push_back(fd.duplicate().value());
  REQUIRE(request(std::move(set)));
  return fd;
}

void NvmeHost::enable(std::uint32_t admin_entries) {
  write(vfio::config_region, 0x04, 2, 0x0406); // memory, bus master, no INTx
  admin_queue = HostQueue{0, admin_entries, base, base + 0x10000};
  io_queue = {};
  std::memset(memory.bytes().data(), 0, 0x20000);
  set_reg(0x24, (admin_entries - 1) << 16 | (admin_entries - 1));
  set_reg(0x28, admin_queue.sq, 8);
  set_reg(0x30, admin_queue.cq, 8);
  set_reg(0x14, 0x00460001);
  REQUIRE(reg(0x1c) == 1);
}

HostQueue NvmeHost::create_pair(unsigned id, std::uint32_t entries, std::optional<unsigned> vector) {
  HostQueue queue{id, entries, base + 0x20000 + id * 0x8000ULL, base + 0x24000 + id * 0x8000ULL};
  std::memset(at(queue.sq), 0, 0x8000);
  SubmissionEntry create{};
  create.opcode = nvme::admin_opcode::create_cq;
  create.cdw10 = (entries - 1) << 16 | id;
  create.cdw11 = 1U | (vector ? 2U | *vector << 16 : 0);
  create.prp1 = queue.cq;
  REQUIRE(admin(create).status == Status::success);
  create.opcode = nvme::admin_opcode::create_sq;
  create.cdw11 = 1U | id << 16;
  create.prp1 = queue.sq;
  REQUIRE(admin(create).status == Status::success);
  return queue;
}

std::uint16_t NvmeHost::put(HostQueue& queue, SubmissionEntry command) {
  command.command_id = next_id_++;
  store(queue.sq + queue.tail * sizeof command, command);
  queue.tail = (queue.tail + 1) % queue.entries;
  return command.command_id;
}

void NvmeHost::ring(const HostQueue& queue) {
  auto* words = reinterpret_cast<std::uint32_t*>(doorbells.bytes().data());
  std::atomic_ref(words[2 * queue.id << shape_.doorbell_stride]).store(queue.tail, std::memory_order_release);
}

void NvmeHost::poll() {
  for (int rounds = 0; rounds < 1000;) {
    if (function->poll()) {
      ++rounds;
    } else if (function->settling()) {
      std::this_thread::yield(); // the flush is another thread's
    } else {
      return;
    }
  }
  FAIL("the controller never comes to rest");
}

std::optional<Outcome> NvmeHost::take(HostQueue& queue, bool ring_head) {
  const auto entry = load<nvme::CompletionEntry>(queue.cq + queue.head * sizeof(nvme::CompletionEntry));
  if (((entry.status & 1) != 0) != queue.phase) return std::nullopt;
  CHECK(entry.sq_id == queue.id);
  queue.head = (queue.head + 1) % queue.entries;
  if (queue.head == 0) queue.phase = !queue.phase;
  auto* words = reinterpret_cast<std::uint32_t*>(doorbells.bytes().data());
  const unsigned index = 2 * queue.id + 1;
  if (ring_head) std::atomic_ref(words[index << shape_.doorbell_stride]).store(queue.head, std::memory_order_release);
  return Outcome{entry.command_id, static_cast<Status>(entry.status >> 1 & 0x7ff), (entry.status & 0x8000) != 0,
                 entry.result, entry.sq_head};
}

Outcome NvmeHost::run(HostQueue& queue, SubmissionEntry command) {
  const std::uint16_t id = put(queue, command);
  ring(queue);
  poll();
  const auto ended = take(queue);
  REQUIRE(ended);
  CHECK(ended->command_id == id);
  return *ended;
}

Outcome NvmeHost::io(std::uint8_t opcode, std::uint64_t lba, std::uint32_t blocks, std::uint64_t prp1,
                     std::uint64_t prp2, std::uint32_t cdw12) {
  if (io_queue.entries == 0) io_queue = create_pair(1);
  SubmissionEntry command{};
  command.opcode = opcode;
  command.nsid = nvme::namespace_id;
  command.prp1 = prp1;
  command.prp2 = prp2;
  command.cdw10 = static_cast<std::uint32_t>(lba);
  command.cdw11 = static_cast<std::uint32_t>(lba >> 32);
  command.cdw12 = cdw12 | (blocks - 1);
  return run(io_queue, command);
}

void NvmeHost::fill(std::uint64_t address, std::size_t size, unsigned seed) {
  for (std::size_t i = 0; i < size; ++i) at(address)[i] = static_cast<std::byte>(seed + i * 7 + (i >> 8));
}

std::vector<std::byte> NvmeHost::file_bytes(std::uint64_t offset, std::size_t size) const {
  std::vector<std::byte> content(size);
  REQUIRE(::pread(file.get(), content.data(), size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size));
  return content;
}

} // namespace smartio::testing
