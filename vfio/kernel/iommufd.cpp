// A domain as an I/O address space of iommufd (Documentation/userspace-api/iommufd.rst), which devices join by their
// character devices. Memory files and dma-bufs are mapped by descriptor.
#include "iommu.hpp"
#include "result.hpp"

namespace smartio::vfio::kernel {
namespace {

constexpr auto iommufd_path = "/dev/iommu";

class Iommufd final : public Iommu {
public:
  static Result<std::unique_ptr<Iommufd>> open(std::shared_ptr<System> system, const Place& place);

  Interface interface() const override { return Interface::iommufd; }
  Result<Fd> open_device(const Place& place, const std::optional<VfToken>& token) override;
  Result<Limits> limits() override;
  Outcome<Pages> map(const DmaMap& window, const Source& source) override;
  Outcome<std::uint64_t> unmap(Iova iova, std::uint64_t size) override {
    return system_->unmap_space(iommufd_.get(), space_, iova, size);
  }

private:
  Result<void> bind(const Fd& device, const Place& place, const std::optional<VfToken>& token);
  explicit Iommufd(std::shared_ptr<System> system) : system_(std::move(system)) {}
  Outcome<void> map_file(const DmaMap& window, int fd, std::uint64_t offset);
  Outcome<Pages> map_address(const DmaMap& window, std::uint64_t page);

  std::shared_ptr<System> system_;
  Fd iommufd_;
  std::uint32_t space_ = 0;
};

Result<std::unique_ptr<Iommufd>> Iommufd::open(std::shared_ptr<System> system, const Place& place) {
  if (!place.cdev)
    return fail(
        Errc::wrong_state,
        "{} has no VFIO character device, which iommufd needs: the kernel lacks it, or it is not bound to vfio-pci.",
        to_string(place.bdf));
  std::unique_ptr<Iommufd> self(new Iommufd(std::move(system)));
  auto fd = self->system_->open(iommufd_path);
  if (!fd && fd.error() == ENOENT)
    return fail(Errc::wrong_state, "There is no {}: this kernel has no iommufd.", iommufd_path);
  if (!fd) return open_failure(fd.error(), iommufd_path, place.bdf);
  self->iommufd_ = std::move(*fd);
  const auto space = self->system_->allocate_space(self->iommufd_.get());
  if (!space) return fail_errno(space.error(), "IOMMU_IOAS_ALLOC");
  self->space_ = *space;
  return self;
}

Result<Fd> Iommufd::open_device(const Place& place, const std::optional<VfToken>& token) {
  const auto name = to_string(place.bdf);
  if (!place.cdev) return fail(Errc::wrong_state, "{} is not bound to vfio-pci: bind it first.", name);
  auto device = system_->open(*place.cdev);
  if (!device) return open_failure(device.error(), *place.cdev, place.bdf);
  TRY(bind(*device, place, token));
  if (!system_->probe_dma_buf(device->get()))
    return fail(Errc::wrong_state,
                "The kernel cannot export the registers of {} as a dma-buf, so iommufd is of no use.", name);
  const auto attached = system_->attach(device->get(), space_);
  if (!attached) return fail_errno(attached.error(), "VFIO_DEVICE_ATTACH_IOMMUFD_PT " + name);
  return std::move(*device);
}

Result<void> Iommufd::bind(const Fd& device, const Place& place, const std::optional<VfToken>& token) {
  const auto name = to_string(place.bdf);
  const auto bound = system_->bind(device.get(), iommufd_.get(), token ? std::optional(token->bytes) : std::nullopt);
  if (bound) return {};
  // The kernel says EINVAL when the device is open already, EBUSY when its group is.
  if (bound.error() == EINVAL || bound.error() == EBUSY) return open_failure(EBUSY, *place.cdev, place.bdf);
  if (bound.error() == EPERM)
    return fail(
        Errc::not_permitted,
        "{} cannot be lent: another function of IOMMU group {} has a driver of this host (bind it to vfio-pci), or "
        "the IOMMU does not remap interrupts.",
        name, place.group);
  if (bound.error() == EACCES) return token_missing(place.bdf);
  return fail_errno(bound.error(), "VFIO_DEVICE_BIND_IOMMUFD " + name);
}

Result<Limits> Iommufd::limits() {
  auto limits = system_->space_limits(iommufd_.get(), space_);
  if (!limits) return fail_errno(limits.error(), "IOMMU_IOAS_IOVA_RANGES");
  return std::move(*limits);
}

Outcome<void> Iommufd::map_file(const DmaMap& window, int fd, std::uint64_t offset) {
  return system_->map_space_file(iommufd_.get(), space_, window.iova, window.size, window.access, fd, offset);
}

Outcome<Pages> Iommufd::map_address(const DmaMap& window, std::uint64_t page) {
  auto pages = Pages::map(system_, window, page);
  if (!pages) return pages;
  const auto mapped =
      system_->map_space(iommufd_.get(), space_, window.iova, window.size, window.access, pages->at_window());
  if (!mapped) return std::unexpected(mapped.error());
  return pages;
}

Outcome<Pages> Iommufd::map(const DmaMap& window, const Source& source) {
  Outcome<void> mapped;
  if (source.kind == Source::Kind::device) { // iommufd takes registers as a dma-buf only, and keeps it by itself
    const auto buffer = system_->export_dma_buf(window.fd.get(), source.region, source.region_offset, window.size);
    if (!buffer) return std::unexpected(buffer.error());
    mapped = map_file(window, buffer->get(), 0);
  } else {
    mapped = map_file(window, window.fd.get(), window.offset);
    // ENOTTY: before Linux 6.13. EINVAL: a file on a disk.
    const bool by_address = !mapped && (mapped.error() == ENOTTY || mapped.error() == EINVAL);
    if (by_address && source.kind == Source::Kind::file) return map_address(window, source.status.page);
  }
  if (!mapped) return std::unexpected(mapped.error());
  return Pages();
}

} // namespace

Result<FirstDevice> open_iommufd(std::shared_ptr<System> system, const Place& place,
                                 const std::optional<VfToken>& token) {
  auto iommufd = TRY(Iommufd::open(std::move(system), place));
  auto device = TRY(iommufd->open_device(place, token));
  return FirstDevice{std::move(iommufd), std::move(device)};
}

} // namespace smartio::vfio::kernel
