#include "ntb/steps.hpp"

#include "result.hpp"

#include <cstring>

namespace smartio::fabric::ntb {

namespace {

constexpr std::uint32_t register_bar = 0;

std::string name_of(std::uint32_t region, std::uint32_t offset) {
  return fmt::format("{} {:#x}", region == register_bar ? "register" : "configuration space", offset);
}

Result<std::uint64_t> value_of(const vfio::Answer& answer, unsigned width) {
  const auto* data = std::get_if<vfio::Data>(&answer);
  if (data == nullptr || data->bytes.size() != width)
    return fail(Errc::bad_request, "The device answered a read of {} bytes with something else.", width);
  std::uint64_t value = 0;
  std::memcpy(&value, data->bytes.data(), width);
  return value;
}

} // namespace

std::shared_ptr<Steps> Steps::on(std::shared_ptr<vfio::Device> device) {
  return std::shared_ptr<Steps>(new Steps(std::move(device)));
}

void Steps::ask(std::string what, vfio::Request request, Look look) {
  const auto at = steps_.begin() + static_cast<std::ptrdiff_t>(place_++);
  steps_.insert(at, {std::move(what), std::move(request), std::move(look)});
}

void Steps::write_region(std::uint32_t region, std::uint32_t offset, unsigned width, std::uint64_t value) {
  std::vector<std::byte> data(width);
  std::memcpy(data.data(), &value, width);
  ask(fmt::format("write {}", name_of(region, offset)), vfio::RegionWrite{region, offset, std::move(data)});
}

void Steps::read_region(std::uint32_t region, std::uint32_t offset, unsigned width,
                        std::function<Result<void>(std::uint64_t)> look) {
  ask(fmt::format("read {}", name_of(region, offset)), vfio::RegionRead{region, offset, width},
      [width, look = std::move(look)](const vfio::Answer& answer) -> Result<void> {
        return look(TRY(value_of(answer, width)));
      });
}

void Steps::change_region(std::uint32_t region, std::uint32_t offset, unsigned width, std::uint64_t clear,
                          std::uint64_t set) {
  read_region(region, offset, width, [=, this](std::uint64_t value) -> Result<void> {
    write_region(region, offset, width, (value & ~clear) | set);
    return {};
  });
}

void Steps::write(std::uint32_t offset, unsigned width, std::uint64_t value) {
  write_region(register_bar, offset, width, value);
}

void Steps::read(std::uint32_t offset, unsigned width, std::function<Result<void>(std::uint64_t)> look) {
  read_region(register_bar, offset, width, std::move(look));
}

void Steps::read_config(std::uint32_t offset, unsigned width, std::function<Result<void>(std::uint64_t)> look) {
  read_region(vfio::config_region, offset, width, std::move(look));
}

void Steps::change(std::uint32_t offset, unsigned width, std::uint64_t clear, std::uint64_t set) {
  change_region(register_bar, offset, width, clear, set);
}

void Steps::change_config(std::uint32_t offset, unsigned width, std::uint64_t clear, std::uint64_t set) {
  change_region(vfio::config_region, offset, width, clear, set);
}

void Steps::set(std::uint32_t offset, unsigned width, std::uint64_t value) {
  write(offset, width, value);
  read(offset, width, [offset, value](std::uint64_t found) -> Result<void> {
    if (found == value) return {};
    return fail(Errc::wrong_state, "Register {:#x} of the bridge holds {:#x} and does not take {:#x}.", offset, found,
                value);
  });
}

void Steps::run(Done done) {
  done_ = std::move(done);
  next();
}

void Steps::next() {
  if (steps_.empty()) return std::exchange(done_, nullptr)({});
  auto step = std::move(steps_.front());
  steps_.pop_front();
  place_ = 0;
  device_->submit(std::move(step.request), [self = shared_from_this(), what = std::move(step.what),
                                            look = std::move(step.look)](vfio::Reply reply) mutable {
    self->answered(std::move(what), std::move(look), std::move(reply));
  });
}

void Steps::answered(std::string what, Look look, vfio::Reply reply) {
  Result<void> good = {};
  if (!reply)
    good = fail_errno(reply.error(), std::move(what));
  else if (look)
    good = look(*reply);
  if (good) return next();
  steps_.clear();
  std::exchange(done_, nullptr)(std::move(good));
}

} // namespace smartio::fabric::ntb
