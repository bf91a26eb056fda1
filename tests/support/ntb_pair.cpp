#include "ntb_pair.hpp"

#include <bit>
#include <cstring>

namespace smartio::testing {

namespace offset = ntb::register_offset;

NtbHost::NtbHost(ntb::Bridge& bridge, Side side)
    : memory_fd(make_memfd("host", memory_bytes).value()), bridge_(bridge), side_(side),
      memory_(Mapping::map(memory_fd.get(), 0, memory_bytes).value()) {
  attach();
}

void NtbHost::attach() {
  device = bridge_.attach(side_, {[this](Iova iova, std::uint32_t bytes, vfio::Completion done) {
                                    reads.push_back({iova, bytes, {}, std::move(done)});
                                  },
                                  [this](Iova iova, Bytes data, vfio::Completion done) {
                                    writes.push_back({iova, 0, std::move(data), std::move(done)});
                                  }});
  write(vfio::config_region, 0x18, 8, bar2_at);
  write(vfio::config_region, 0x20, 8, bar4_at);
  set_bus_master(true);
  REQUIRE(map(memory_at, memory_bytes, Access::read_write, memory_fd.get()) == 0);
}

std::shared_ptr<std::optional<vfio::Reply>> NtbHost::ask(vfio::Request request) {
  auto reply = std::make_shared<std::optional<vfio::Reply>>();
  device->submit(std::move(request), [reply](vfio::Reply answer) {
    REQUIRE_FALSE(reply->has_value()); // exactly one
    reply->emplace(std::move(answer));
  });
  return reply;
}

vfio::Reply NtbHost::request(vfio::Request request) {
  const auto reply = ask(std::move(request));
  REQUIRE(reply->has_value());
  return std::move(**reply);
}

std::uint64_t NtbHost::read(std::uint32_t region, std::uint64_t offset, unsigned width) {
  const auto answer = std::get<vfio::Data>(request(vfio::RegionRead{region, offset, width}).value()).bytes;
  REQUIRE(answer.size() == width);
  std::uint64_t value = 0;
  std::memcpy(&value, answer.data(), width);
  return value;
}

void NtbHost::write(std::uint32_t region, std::uint64_t offset, unsigned width, std::uint64_t value) {
  Bytes written(width);
  std::memcpy(written.data(), &value, width);
  REQUIRE(request(vfio::RegionWrite{region, offset, std::move(written)}));
}

int NtbHost::map(std::uint64_t iova, std::uint64_t bytes, Access access, int fd, std::uint64_t from) {
  auto copy = fd < 0 ? Fd() : duplicate(fd).value();
  const auto reply = request(vfio::DmaMap{static_cast<Iova>(iova), bytes, access, std::move(copy), from});
  return reply ? 0 : reply.error();
}

Fd NtbHost::assign_vector(unsigned vector) {
  auto fd = make_eventfd().value();
  vfio::SetIrqs set{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, vector, 1, {}, {}};
  set.eventfds.push_back(fd.duplicate().value());
  REQUIRE(request(std::move(set)));
  return fd;
}

void NtbHost::set_bus_master(bool on) { write(vfio::config_region, 0x04, 2, on ? 0x6 : 0x2); }

void NtbHost::want_link(bool on) {
  if (bridge_.chip().generation == 3) {
    set_reg(offset::secondary_command, on ? 0x6 : 0, 2);
    set_reg(offset::control, on ? 0x154 : 0x3);
    return;
  }
  set_reg(offset::control, on ? 0x154 : 0);
  set_reg(offset::link_control, on ? 0 : 0x10, 2);
  set_reg(offset::ppd0, on ? 0x8 : 0);
}

void NtbHost::open_window(unsigned index, std::uint64_t iova, std::uint64_t bytes) {
  const std::uint32_t step = index * offset::window_step;
  set_reg(offset::translation_base + step, iova, 8);
  if (std::string_view(bridge_.chip().name) == "gen4") // Ice Lake's alone
    set_reg(offset::base_index + 2 * index, std::bit_width(bytes) - 1U, 2);
  set_reg(offset::limit + step, (index == 0 ? bar2_at : bar4_at) + bytes, 8);
  if (bridge_.chip().generation == 3) set_reg(offset::secondary_limit + step, bytes, 8);
}

bool NtbHost::link_up() {
  const bool in_config = bridge_.chip().generation == 3;
  return (in_config ? read(vfio::config_region, 0x1a2, 2) : reg(offset::link_status, 2)) == bridge_.chip().link_up;
}

NtbPair::NtbPair(const char* chip, bool with_link)
    : bridge(*ntb::find_chip(chip), NtbHost::window_bytes), a(bridge, Side::a), b(bridge, Side::b) {
  if (!with_link) return;
  a.want_link(true);
  b.want_link(true);
}

} // namespace smartio::testing
