// A domain as a VFIO container with one group (Documentation/driver-api/vfio.rst), IOMMU model TYPE1v2: mappings are of
// this process's addresses, and are removed exactly as they were made.
#include "iommu.hpp"
#include "result.hpp"

namespace smartio::vfio::kernel {
namespace {

constexpr auto container_path = "/dev/vfio/vfio";

class Container final : public Iommu {
public:
  static Result<std::unique_ptr<Container>> open(std::shared_ptr<System> system, const Place& place);

  Interface interface() const override { return Interface::type1; }
  Result<Fd> open_device(const Place& place, const std::optional<VfToken>& token) override;
  Result<Limits> limits() override;
  Outcome<Pages> map(const DmaMap& window, const Source& source) override;
  Outcome<std::uint64_t> unmap(Iova iova, std::uint64_t size) override {
    return system_->unmap_dma(container_.get(), iova, size);
  }

private:
  explicit Container(std::shared_ptr<System> system) : system_(std::move(system)) {}
  Result<void> join(const Place& place, const std::string& path);

  std::shared_ptr<System> system_;
  Fd container_, group_; // the group leaves the container before that closes
};

Result<std::unique_ptr<Container>> Container::open(std::shared_ptr<System> system, const Place& place) {
  std::unique_ptr<Container> self(new Container(std::move(system)));
  const auto path = fmt::format("/dev/vfio/{}", place.group);
  auto group = self->system_->open(path);
  if (!group) return open_failure(group.error(), path, place.bdf);
  self->group_ = std::move(*group);
  auto container = self->system_->open(container_path);
  if (!container) return open_failure(container.error(), container_path, place.bdf);
  self->container_ = std::move(*container);
  TRY(self->join(place, path));
  return self;
}

Result<void> Container::join(const Place& place, const std::string& path) {
  const auto name = to_string(place.bdf);
  const auto viable = system_->group_viable(group_.get());
  if (!viable) return fail_errno(viable.error(), fmt::format("VFIO_GROUP_GET_STATUS {}", path));
  if (!*viable)
    return fail(Errc::wrong_state,
                "IOMMU group {} of {} has other functions that are not bound to vfio-pci: bind them too.", place.group,
                name);
  const auto joined = system_->set_container(group_.get(), container_.get());
  if (!joined) return fail_errno(joined.error(), fmt::format("VFIO_GROUP_SET_CONTAINER {}", path));
  const auto typed = system_->set_iommu(container_.get());
  if (!typed && typed.error() == EPERM)
    return fail(Errc::not_permitted,
                "The IOMMU of {} does not remap interrupts, so the device could forge them: it cannot be lent.", name);
  if (!typed && typed.error() == ENODEV)
    return fail(Errc::wrong_state, "The kernel has no VFIO for the IOMMU of {}: load the module vfio_iommu_type1.",
                name);
  if (!typed) return fail_errno(typed.error(), fmt::format("VFIO_SET_IOMMU {}", path));
  return {};
}

Result<Fd> Container::open_device(const Place& place, const std::optional<VfToken>& token) {
  const auto name = to_string(place.bdf);
  auto device = system_->group_device(group_.get(), token ? name + " vf_token=" + token->text : name);
  if (device) return std::move(*device);
  if (device.error() == ENODEV) return fail(Errc::wrong_state, "{} is not bound to vfio-pci: bind it first.", name);
  if (device.error() == EACCES) return token_missing(place.bdf);
  return fail_errno(device.error(), "VFIO_GROUP_GET_DEVICE_FD " + name);
}

Result<Limits> Container::limits() {
  auto limits = system_->container_limits(container_.get());
  if (!limits) return fail_errno(limits.error(), "VFIO_IOMMU_GET_INFO");
  return std::move(*limits);
}

Outcome<Pages> Container::map(const DmaMap& window, const Source& source) {
  if (source.kind == Source::Kind::other) return std::unexpected(EINVAL);
  auto pages = Pages::map(system_, window, source.kind == Source::Kind::file ? source.status.page : 1);
  if (!pages) return pages;
  const auto mapped = system_->map_dma(container_.get(), window.iova, window.size, window.access, pages->at_window());
  if (!mapped) return std::unexpected(mapped.error());
  return pages;
}

} // namespace

Result<FirstDevice> open_container(std::shared_ptr<System> system, const Place& place,
                                   const std::optional<VfToken>& token) {
  auto container = TRY(Container::open(std::move(system), place));
  auto device = TRY(container->open_device(place, token));
  return FirstDevice{std::move(container), std::move(device)};
}

} // namespace smartio::vfio::kernel
