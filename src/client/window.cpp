#include "window.hpp"

#include "bar.hpp"
#include "page.hpp"

#include <algorithm>
#include <mutex>

namespace smartio::detail {
namespace {

// Pages are pinned one by one, at some GiB a second: no message may take longer than an answer does.
constexpr std::uint64_t most_piece = 1ULL << 30;

// Memory a device may still write is never reused: it stays mapped and referenced until the process ends.
void keep_for_ever(const smartio::Memory& memory) {
  static std::mutex mutex;
  static auto* kept = new std::vector<smartio::Memory>;
  const std::lock_guard lock(mutex);
  kept->push_back(memory);
}

// Whether an error leaves open what the server did; otherwise it is the server's refusal.
bool outcome_unknown(int number) {
  const auto code = DeviceCore::error_of(number, {}).code;
  return code == Errc::revoked || code == Errc::timed_out || number == EPROTO;
}

} // namespace

Result<void> Window::map(smartio::Memory shared, Access by_device, std::optional<Iova> chosen) {
  memory_ = std::move(shared);
  if (memory_->size() % page_size != 0 || memory_->offset() % page_size != 0)
    return fail(Errc::bad_request, "Memory for a device is in whole pages of {} bytes, not {} bytes", page_size,
                memory_->size());
  TRY(reserve(memory_->size(), chosen));
  for (std::uint64_t at = 0; at < size; at += most_piece)
    TRY(map_piece(at, std::min(size - at, most_piece), by_device, memory_->fd(), memory_->offset() + at));
  return {};
}

Result<void> Window::map_registers(std::shared_ptr<DeviceCore> of, unsigned bar, Access by_device) {
  target_ = std::move(of);
  const auto region =
      TRY(target_->request<vfio::RegionInfo>(vfio::GetRegionInfo{bar}, fmt::format("ask for BAR {}", bar)));
  TRY(check_areas(region, bar, target_->description.bar_size[bar]));
  if (!is_mappable(region))
    return fail(Errc::not_permitted,
                "No device can reach BAR {} of the target, since this program may map nothing of it: its access is "
                "trapped, or the BAR has no page that can be mapped",
                bar);
  TRY(reserve(whole_pages(region.size), std::nullopt));
  for (const vfio::RegionArea& area : region.areas)
    TRY(map_piece(area.offset, area.size, by_device, region.fd.get(), region.fd_offset + area.offset));
  return {};
}

Result<void> Window::reserve(std::uint64_t bytes, std::optional<Iova> chosen) {
  iova = TRY(core->await<Result<Iova>>([this, bytes, chosen](auto done) { done(find_room(bytes, chosen)); }));
  size = bytes;
  reserved_ = true;
  return {};
}

Result<Iova> Window::find_room(std::uint64_t bytes, std::optional<Iova> chosen) {
  if (core->revoked()) return std::unexpected(DeviceCore::error_of(ENODEV, {}));
  if (!chosen) {
    const auto found = core->iovas.allocate(bytes, iova_alignment(bytes));
    if (!found) return fail(Errc::no_window, "No address range of {} bytes is free for the device", bytes);
    return static_cast<Iova>(*found);
  }
  const auto start = std::to_underlying(*chosen);
  if (const auto slice = core->description.slice; slice && !in_iova_slice(*slice, start, bytes))
    return fail(
        Errc::bad_request,
        "{} bytes at {:#x} cannot be mapped: the device is shared, and this program's share of its addresses is "
        "{:#x} to {:#x}",
        bytes, start, *slice * iova_slice_size, (*slice + 1) * iova_slice_size - 1);
  if (start % page_size == 0 && bytes - 1 <= UINT64_MAX - start)
    if (const auto reserved = reserved_range(core->description.iovas, start, bytes))
      return fail(Errc::bad_request,
                  "{} bytes at {:#x} cannot be mapped: the device's IOMMU takes no windows at {:#x} to {:#x}; choose "
                  "other addresses, or leave the choice to map_dma",
                  bytes, start, reserved->first, reserved->last);
  if (start % page_size != 0 || !core->iovas.reserve(start, bytes))
    return fail(Errc::bad_request, "{} bytes at {:#x} cannot be mapped: misaligned, reserved or in another window",
                bytes, start);
  return *chosen;
}

/// `at` is from the window's start.
Result<void> Window::map_piece(std::uint64_t at, std::uint64_t bytes, Access by_device, int fd, std::uint64_t offset) {
  Fd shared = TRY(duplicate(fd));
  const Piece piece{Iova{std::to_underlying(iova) + at}, bytes};
  return core->await<Result<void>>([this, piece, by_device, &shared, offset](auto done) {
    core->submit(vfio::DmaMap{piece.iova, piece.size, by_device, std::move(shared), offset},
                 [this, piece, done](vfio::Reply reply) { done(mapped_or_not(piece, std::move(reply))); });
  });
}

Result<void> Window::mapped_or_not(Piece piece, vfio::Reply reply) {
  const int number = reply ? 0 : reply.error();
  auto answer =
      DeviceCore::answer_of<vfio::Done>(std::move(reply), fmt::format("map {} bytes at {:#x} for the device",
                                                                      piece.size, std::to_underlying(piece.iova)));
  if (answer || outcome_unknown(number)) pieces_.push_back(piece); // the destructor sees to it
  if (answer) return {};
  if (number == ENOSPC)
    return fail(Errc::no_window,
                "There is no room for {} bytes: the lender has too many windows, or the bridge's is full", piece.size);
  return std::unexpected(std::move(answer).error());
}

bool Window::unmap(const Piece& piece) {
  return core->await<bool>([this, &piece](auto done) {
    core->submit(vfio::DmaUnmap{piece.iova, piece.size}, [&piece, done](vfio::Reply reply) {
      const auto* unmapped = reply ? std::get_if<vfio::Unmapped>(&*reply) : nullptr;
      done(unmapped != nullptr && unmapped->size == piece.size);
    });
  });
}

/// The addresses may be given to another window.
void Window::release() {
  core->await<bool>([this](auto done) {
    core->iovas.release(std::to_underlying(iova));
    done(true);
  });
}

Window::~Window() {
  if (!reserved_ || core->windows_dropped.load(std::memory_order_acquire)) return;
  bool gone = true;
  for (const Piece& piece : pieces_) gone = unmap(piece) && gone;
  if (gone)
    release();
  else if (memory_ && !core->await_dropped())
    keep_for_ever(*memory_);
}

} // namespace smartio::detail

namespace smartio {

DmaWindow::DmaWindow(std::unique_ptr<detail::Window> impl) noexcept : impl_(std::move(impl)) {}
DmaWindow::DmaWindow() noexcept = default;
DmaWindow::DmaWindow(DmaWindow&&) noexcept = default;
DmaWindow& DmaWindow::operator=(DmaWindow&&) noexcept = default;
DmaWindow::~DmaWindow() = default;
Iova DmaWindow::iova() const noexcept { return impl_->iova; }
std::size_t DmaWindow::size() const noexcept { return impl_->size; }

} // namespace smartio
