#include "function.hpp"

#include "result.hpp"

namespace smartio::vfio::kernel {
namespace {

/// Says which device an error is about.
std::unexpected<Error> about(const Bdf& bdf, Error error) {
  if (error.code.category() == std::system_category()) error.context = to_string(bdf) + ": " + error.context;
  return std::unexpected(std::move(error));
}

} // namespace

Function::Function(std::shared_ptr<System> system, unsigned group, Member::Joined joined, Info info,
                   Registers registers)
    : system_(std::move(system)), group_(group), info_(info), joined_(std::move(joined)),
      registers_(std::move(registers)), interrupts_(system_, joined_.device.get()) {}

Result<std::unique_ptr<Function>> Function::open(std::shared_ptr<System> system, const Options& options,
                                                 const Progress& progress) {
  const auto place = TRY(locate(*system, options.bdf));
  auto joined =
      TRY(Member::join(system, place, options.interface, place.takes_token ? options.token : std::nullopt, progress));
  const auto info = system->device_info(joined.device.get());
  if (!info) return about(options.bdf, {std::error_code(info.error(), std::system_category()), "VFIO_DEVICE_GET_INFO"});
  if ((info->flags & device_flag_pci) == 0)
    return fail(Errc::wrong_state, "{} is no PCI device to VFIO.", to_string(options.bdf));
  auto registers = Registers::open(system, joined.device.get(), info->regions);
  if (!registers) return about(options.bdf, registers.error());
  std::unique_ptr<Function> function(
      new Function(std::move(system), place.group, std::move(joined), *info, std::move(*registers)));
  if (const auto prepared = function->prepare(options); !prepared) return about(options.bdf, prepared.error());
  return function;
}

/// The eventfds come first: from here on the kernel can ask for the device.
Result<void> Function::prepare(const Options& options) {
  TRY(interrupts_.set_own(req, options.request_event));
  TRY(interrupts_.set_own(err, options.error_event));
  TRY(registers_.quiesce());
  if ((info_.flags & device_flag_reset) == 0) return {};
  return reset();
}

Function::~Function() {
  // What fails here is made good by closing the device, unless somebody else holds a copy of its descriptor.
  registers_.quiesce();
  interrupts_.silence();
  joined_.member.unmap(DmaUnmap{Iova{}, 0, true}, [] { return true; });
}

Result<void> Function::reset() {
  const auto done = system_->reset(joined_.device.get());
  if (!done) return fail_errno(done.error(), "VFIO_DEVICE_RESET");
  return registers_.quiesce(); // the kernel restores what a reset clears
}

Result<void> Function::map(const DmaMap& window, const Progress& progress) {
  auto mapped = joined_.member.map(window, progress);
  if (!mapped && mapped.error().code == std::errc::state_not_recoverable) cut_off(mapped.error());
  return mapped;
}

Result<Unmapped> Function::unmap(const DmaUnmap& range, const Progress& progress) {
  auto bytes = joined_.member.unmap(range, progress);
  if (bytes) return Unmapped{*bytes};
  if (bytes.error().code != std::errc::invalid_argument) cut_off(bytes.error());
  return std::unexpected(bytes.error());
}

/// The device may still reach memory that its owner wants back: whatever else it was doing, it stops.
void Function::cut_off(Error& why) {
  const auto quiet = registers_.quiesce();
  const auto cut = reset();
  if (!quiet || !cut) why.context += ", and could not be cut off";
}

Result<Answer> Function::carry_out(const Request& request, const Progress& progress) {
  if (std::get_if<GetInfo>(&request)) return Info{info_.flags, registers_.count(), irq_count, joined_.member.ranges()};
  if (const auto* get = std::get_if<GetRegionInfo>(&request))
    return TRY(registers_.info(get->index, interface() == Interface::iommufd));
  if (const auto* get = std::get_if<GetIrqInfo>(&request)) {
    if (get->index >= irq_count) return fail_errno(EINVAL, "GetIrqInfo");
    return get->index == req ? IrqInfo{} : interrupts_.info(get->index); // REQ is for the device's owner
  }
  if (const auto* read = std::get_if<RegionRead>(&request)) return TRY(registers_.read(*read));
  if (const auto* unmap_range = std::get_if<DmaUnmap>(&request)) return TRY(unmap(*unmap_range, progress));
  if (const auto* write = std::get_if<RegionWrite>(&request)) TRY(registers_.write(*write));
  if (const auto* set = std::get_if<SetIrqs>(&request)) TRY(interrupts_.set(*set));
  if (const auto* window = std::get_if<DmaMap>(&request)) TRY(map(*window, progress));
  if (std::get_if<Reset>(&request)) TRY(reset());
  return Done{};
}

} // namespace smartio::vfio::kernel
