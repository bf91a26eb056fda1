#include "nvme_function.hpp"

#include "result.hpp"

#include <algorithm>

namespace smartio::sim::nvme {

namespace {

constexpr std::uint32_t bar = 0; ///< region index; all other BARs are empty

} // namespace

std::uint64_t NvmeFunction::region_size(std::uint32_t region) const {
  return region == bar ? shape_.bar_size() : region == vfio::config_region ? PciConfig::size : 0;
}

Result<std::shared_ptr<NvmeFunction>> NvmeFunction::create(std::shared_ptr<Store> store,
                                                           std::shared_ptr<Flusher> flusher, const Identity& identity,
                                                           const Shape& shape, std::shared_ptr<const Faults> faults) {
  auto doorbells = TRY(Doorbells::open(shape));
  return std::shared_ptr<NvmeFunction>(
      new NvmeFunction(std::move(store), std::move(flusher), identity, shape, std::move(faults), std::move(doorbells)));
}

NvmeFunction::NvmeFunction(std::shared_ptr<Store> store, std::shared_ptr<Flusher> flusher, const Identity& identity,
                           const Shape& shape, std::shared_ptr<const Faults> faults, Doorbells doorbells)
    : store_(std::move(store)), flusher_(std::move(flusher)), identity_(identity), shape_(shape),
      faults_(std::move(faults)), doorbells_(std::move(doorbells)),
      controller_(memory_, interrupts_, doorbells_, *store_, *flusher_, identity_, shape_, *faults_) {
  reset_registers();
}

void NvmeFunction::submit(vfio::Request request, vfio::Completion done) {
  done(std::visit([this](auto& what) { return handle(std::move(what)); }, request));
}

void NvmeFunction::on_lost(std::move_only_function<void()>) {}

bool NvmeFunction::poll() {
  interrupts_.poll();
  return !faults_->gone && config_.bus_master() && controller_.poll(config_.intx_disabled());
}

vfio::Reply NvmeFunction::handle(vfio::GetInfo) {
  return vfio::Info{vfio::device_flag_reset | vfio::device_flag_pci, vfio::region_count, vfio::irq_count};
}

vfio::Reply NvmeFunction::handle(vfio::GetRegionInfo request) {
  if (request.index >= vfio::region_count) return std::unexpected(EINVAL);
  vfio::RegionInfo info{};
  info.size = region_size(request.index);
  if (info.size != 0) info.flags = vfio::region_flag_read | vfio::region_flag_write;
  if (request.index == bar) {
    auto fd = doorbells_.fd().duplicate();
    if (!fd) return std::unexpected(fd.error().code.value());
    info.flags |= vfio::region_flag_mmap;
    info.areas = {{register_offset::doorbells, shape_.doorbells_size()}};
    info.fd = std::move(*fd);
  }
  return info;
}

vfio::Reply NvmeFunction::handle(vfio::GetIrqInfo request) { return interrupts_.info(request.index); }

vfio::Reply NvmeFunction::handle(vfio::SetIrqs request) {
  if (const auto set = interrupts_.set(std::move(request)); !set) return std::unexpected(set.error());
  return vfio::Done{};
}

vfio::Reply NvmeFunction::handle(vfio::RegionRead request) {
  if (!in_range(request.offset, request.count, region_size(request.region))) return std::unexpected(EINVAL);
  vfio::Data data{std::vector<std::byte>(request.count, std::byte{0xff})};
  if (faults_->gone) return data;
  if (request.region == vfio::config_region) {
    config_.show_line(interrupts_.line());
    config_.read(request.offset, data.bytes);
    return data;
  }
  // Any width and alignment is served from the words it touches, each read once.
  const auto offset = static_cast<std::uint32_t>(request.offset);
  std::uint32_t word = 0;
  for (std::uint32_t i = 0; i < request.count; ++i) {
    if (i == 0 || (offset + i) % 4 == 0) word = read_bar((offset + i) & ~3U);
    data.bytes[i] = static_cast<std::byte>(word >> (8 * ((offset + i) % 4)));
  }
  return data;
}

vfio::Reply NvmeFunction::handle(vfio::RegionWrite request) {
  if (!in_range(request.offset, request.data.size(), region_size(request.region))) return std::unexpected(EINVAL);
  if (faults_->gone) return vfio::Done{};
  if (request.region == vfio::config_region) {
    if (config_.write(request.offset, request.data)) {
      config_.function_level_reset();
      reset_registers();
    }
    return vfio::Done{};
  }
  // 1.4, 3.1: registers are written whole. A part of a word is dropped.
  for (std::size_t i = (4 - request.offset % 4) % 4; i + 4 <= request.data.size(); i += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, request.data.data() + i, sizeof word);
    write_bar(static_cast<std::uint32_t>(request.offset + i), word);
  }
  return vfio::Done{};
}

vfio::Reply NvmeFunction::handle(vfio::DmaMap request) {
  if (const auto mapped = memory_.map(std::move(request)); !mapped) return std::unexpected(mapped.error());
  return vfio::Done{};
}

vfio::Reply NvmeFunction::handle(vfio::DmaUnmap request) {
  const auto unmapped = memory_.unmap(request);
  if (!unmapped) return std::unexpected(unmapped.error());
  return vfio::Unmapped{*unmapped};
}

/// Rewinds everything but the file. Windows and eventfds are the client's, as with VFIO_DEVICE_RESET, and stay.
vfio::Reply NvmeFunction::handle(vfio::Reset) {
  config_.reset();
  reset_registers();
  return vfio::Done{};
}

void NvmeFunction::reset_registers() {
  controller_.reset();
  interrupts_.drop_pending();
  std::ranges::fill(msix_table_, 0);
  for (std::size_t i = 3; i < msix_table_.size(); i += 4) msix_table_[i] = 1; // masked
}

/// Which word of the MSI-X table is there, if one is.
std::optional<std::size_t> NvmeFunction::msix_word(std::uint32_t offset) const {
  const std::uint64_t start = shape_.msix_table();
  if (offset < start || (offset - start) / 4 >= msix_table_.size()) return std::nullopt;
  return (offset - start) / 4;
}

std::uint32_t NvmeFunction::read_bar(std::uint32_t offset) const {
  if (offset < register_offset::doorbells) return controller_.read_register(offset);
  if (offset < shape_.doorbells_end()) return doorbells_.load_word((offset - register_offset::doorbells) / 4);
  if (const auto entry = msix_word(offset)) return msix_table_[*entry];
  std::uint32_t word = 0;
  const auto pending = interrupts_.pending_bits();
  const std::uint64_t start = shape_.msix_pending();
  if (offset >= start && in_range(offset - start, sizeof word, pending.size()))
    std::memcpy(&word, pending.data() + (offset - start), sizeof word);
  return word;
}

void NvmeFunction::write_bar(std::uint32_t offset, std::uint32_t value) {
  if (offset < register_offset::doorbells) {
    controller_.write_register(offset, value);
  } else if (offset < shape_.doorbells_end()) {
    controller_.write_doorbell((offset - register_offset::doorbells) / 4, value);
  } else if (const auto entry = msix_word(offset)) {
    msix_table_[*entry] = value;
  }
}

} // namespace smartio::sim::nvme
