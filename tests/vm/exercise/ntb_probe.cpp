// Drives one end of a non-transparent bridge with fabric/ntb and does what its standard input says, a line at a time;
// each is answered with a line, "ok", "ok VALUE" or "error SENTENCE". ntb_probe SOCKET-OF-A-SERVER, or of a function
// bound to vfio-pci: ntb_probe BDF [type1|iommufd]. Numbers are decimal or 0x..., bytes are hex. Its memory is as large
// as both windows, window 0 first, and mapped for the bridge at `memory_at` until `unmap`.
#include "kernel/device.hpp"
#include "mapping.hpp"
#include "ntb/adapter.hpp"
#include "result.hpp"
#include "user/client.hpp"

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/read_until.hpp>
#include <cstring>
#include <functional>
#include <iomanip>
#include <iostream>
#include <map>
#include <sstream>
#include <unistd.h>

using namespace smartio;
using fabric::ntb::Adapter;

namespace {

using Bytes = std::vector<std::byte>;
using Text = Result<std::string>;

constexpr std::uint64_t memory_at = 0x40000000;
constexpr std::size_t piece = 4096; // bytes of an aperture per message
constexpr std::chrono::seconds patience{20};

boost::asio::io_context io{1}; // runs whatever this program waits for: the server asks things meanwhile
using Descriptor = boost::asio::posix::stream_descriptor;

/// The result of what completes later.
template <class T> Result<T> await(std::function<void(std::move_only_function<void(Result<T>)>)> begin) {
  std::optional<Result<T>> result;
  begin([&result](Result<T> value) { result.emplace(std::move(value)); });
  while (!result) io.run_one();
  return std::move(*result);
}
template <class T, class... Args, class... Given>
Result<T> ask(Adapter& adapter, void (Adapter::*operation)(Args...), Given... given) {
  return await<T>([&](auto done) { (adapter.*operation)(given..., std::move(done)); });
}

/// Whether `eventfd` was signalled in time.
bool await_event(int eventfd) {
  Descriptor descriptor(io, duplicate(eventfd).value().release());
  const auto end = std::chrono::steady_clock::now() + patience;
  bool over = false;
  boost::system::error_code error;
  descriptor.async_wait(Descriptor::wait_read, [&](boost::system::error_code result) {
    error = result;
    over = true;
  });
  while (!over && io.run_one_until(end) != 0) continue;
  descriptor.cancel();
  while (!over) io.run_one();
  return !error;
}

/// The next line of standard input.
std::optional<std::string> await_line(Descriptor& input, std::string& buffer) {
  const auto length = await<std::size_t>([&](auto done) {
    boost::asio::async_read_until(input, boost::asio::dynamic_buffer(buffer), '\n',
                                  [done = std::move(done)](boost::system::error_code error, std::size_t bytes) mutable {
                                    if (error) return done(fail_errno(error.value(), "read"));
                                    done(bytes);
                                  });
  });
  if (!length) return std::nullopt;
  auto line = buffer.substr(0, *length - 1);
  buffer.erase(0, *length);
  return line;
}

std::string to_hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const auto byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}
Bytes from_hex(const std::string& text) {
  Bytes bytes(text.size() / 2);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(std::strtoul(text.substr(2 * i, 2).c_str(), nullptr, 16));
  return bytes;
}

Result<std::shared_ptr<vfio::Device>> open_device(const std::string& name, std::string_view interface) {
  const std::chrono::milliseconds timeout{4000};
  if (name.find('/') != std::string::npos)
    return TRY(await<std::shared_ptr<vfio::user::Client>>(
        [&](auto opened) { vfio::user::Client::connect(io, name, timeout, std::move(opened)); }));
  const auto which = interface == "iommufd" ? vfio::kernel::Interface::iommufd : vfio::kernel::Interface::type1;
  return TRY(await<std::shared_ptr<vfio::kernel::Device>>([&](auto opened) {
    vfio::kernel::Device::open(io, vfio::kernel::real_system(),
                               {.bdf = parse_bdf(name).value_or(Bdf{}), .interface = which, .timeout = timeout},
                               std::move(opened));
  }));
}

/// A window of the bridge as this host sees it: loads and stores where it can be mapped, messages where not.
struct Aperture {
  std::uint32_t region;
  std::uint64_t size;
  Mapping mapping;
};

class Probe {
public:
  static Result<std::unique_ptr<Probe>> open(const std::string& name, std::string_view interface) {
    std::unique_ptr<Probe> probe(new Probe);
    probe->device_ = TRY(open_device(name, interface));
    probe->adapter_ =
        TRY(await<std::shared_ptr<Adapter>>([&](auto opened) { Adapter::open(probe->device_, std::move(opened)); }));
    TRY(probe->begin());
    return probe;
  }
  Text obey(const std::string& line) {
    words_ = std::istringstream(line);
    std::string verb;
    words_ >> verb;
    const auto found = verbs_.find(verb);
    if (found == verbs_.end()) return fail(Errc::bad_request, "There is no command '{}'.", verb);
    return found->second(*this);
  }

private:
  Result<vfio::Answer> submit(vfio::Request request) {
    return await<vfio::Answer>([&](auto done) {
      device_->submit(std::move(request), [done = std::move(done)](vfio::Reply reply) mutable {
        if (!reply) return done(fail_errno(reply.error(), "request"));
        done(std::move(*reply));
      });
    });
  }
  Result<void> begin() {
    for (std::uint32_t i = 0; i < fabric::ntb::window_count; ++i) TRY(open_aperture(i));
    const auto bytes = apertures_[0].size + apertures_[1].size;
    file_ = TRY(make_memfd("ntb_probe", bytes));
    memory_ = TRY(Mapping::map(file_.get(), 0, bytes));
    TRY(map());
    std::vector<Fd> given;
    for (auto& event : events_) {
      event = TRY(make_eventfd());
      given.push_back(TRY(event.duplicate()));
    }
    return await<void>([&](auto done) { adapter_->start(std::move(given), std::move(done)); });
  }
  Result<void> open_aperture(std::uint32_t index) {
    auto& aperture = apertures_[index];
    aperture.region = 2 + 2 * index;
    const auto answer = TRY(submit(vfio::GetRegionInfo{aperture.region}));
    const auto& info = std::get<vfio::RegionInfo>(answer);
    aperture.size = info.size;
    if (!info.areas.empty()) aperture.mapping = TRY(Mapping::map(info.fd.get(), info.fd_offset, info.size));
    return {};
  }
  Result<void> map() {
    auto file = TRY(file_.duplicate());
    TRY(submit(vfio::DmaMap{Iova{memory_at}, memory_.bytes().size(), Access::read_write, std::move(file)}));
    return {};
  }

  std::uint64_t number() {
    std::uint64_t value = 0;
    words_ >> std::setbase(0) >> value;
    return value;
  }
  unsigned small() { return static_cast<unsigned>(number()); }
  std::string word() {
    std::string value;
    words_ >> value;
    return value;
  }
  /// The place the next words name, in memory or an aperture.
  static Result<void> check(std::uint64_t offset, std::uint64_t bytes, std::uint64_t limit) {
    if (!in_range(offset, bytes, limit)) return fail(Errc::bad_request, "There are {} bytes.", limit);
    return {};
  }
  Text said(Result<void> done) {
    TRY(std::move(done));
    return "";
  }

  template <class... Args, class... Given> Text does(void (Adapter::*operation)(Args...), Given... given) {
    return said(ask<void>(*adapter_, operation, given...));
  }
  Text shape() {
    const auto& shape = adapter_->shape();
    return fmt::format("{} {} {:#x} {:#x} {}", shape.generation, shape.upstream ? "USD" : "DSD", shape.usable_doorbells,
                       shape.alignment, apertures_[0].mapping ? "mapped" : "trapped");
  }
  Text link() {
    const auto link = TRY(ask<fabric::ntb::Link>(*adapter_, &Adapter::read_link));
    return link.up ? fmt::format("up {} {}", link.speed, link.width) : "down";
  }
  /// Sleeps until the link's vector fires, as often as it takes.
  Text await_link() {
    const auto wanted = word();
    const int event = events_[adapter_->shape().link_vector].get();
    for (;;) {
      const auto now = TRY(link());
      if (now.starts_with(wanted)) return now;
      if (!await_event(event)) return fail(Errc::timed_out, "The link stays {}.", now);
      drain_eventfd(event);
    }
  }
  Text await_doorbell() {
    const auto vector = number() % events_.size();
    if (!await_event(events_[vector].get())) return fail(Errc::timed_out, "No doorbell {}.", vector);
    return fmt::format("{}", drain_eventfd(events_[vector].get()));
  }
  Text signalled() { return fmt::format("{}", drain_eventfd(events_[number() % events_.size()].get())); }
  Text doorbells() { return fmt::format("{:#x}", TRY(ask<std::uint64_t>(*adapter_, &Adapter::read_doorbells))); }
  Text scratchpads() {
    std::string values;
    for (unsigned i = 0; i < fabric::ntb::scratchpad_count; ++i)
      values += fmt::format("{:#x} ", TRY(ask<std::uint32_t>(*adapter_, &Adapter::read_scratchpad, i)));
    return values;
  }
  Text write_scratchpads() {
    const auto first = small();
    for (unsigned i = 0; i < fabric::ntb::scratchpad_count; ++i)
      TRY(ask<void>(*adapter_, &Adapter::write_peer_scratchpad, i, first + i));
    return "";
  }
  Text open_window() {
    const auto index = small();
    const auto offset = number(), bytes = number();
    return does(&Adapter::open_window, index, Iova{memory_at + offset}, bytes);
  }
  Text unmap() {
    TRY(submit(vfio::DmaUnmap{Iova{memory_at}, memory_.bytes().size()}));
    return "";
  }
  Text reset() {
    TRY(submit(vfio::Reset{}));
    return "";
  }

  Text load() {
    const auto offset = number(), bytes = number();
    TRY(check(offset, bytes, memory_.bytes().size()));
    return to_hex(memory_.bytes().subspan(offset, bytes));
  }
  Text store() {
    const auto offset = number();
    const auto data = from_hex(word());
    TRY(check(offset, data.size(), memory_.bytes().size()));
    std::memcpy(memory_.bytes().data() + offset, data.data(), data.size());
    return "";
  }
  Text peek() {
    const auto& aperture = apertures_[number() % apertures_.size()];
    const auto offset = number(), bytes = number();
    TRY(check(offset, bytes, aperture.size));
    Bytes data(bytes);
    for (std::size_t at = 0; at < bytes; at += piece)
      TRY(read(aperture, offset + at, std::span(data).subspan(at, std::min(piece, bytes - at))));
    return to_hex(data);
  }
  Text poke() {
    const auto& aperture = apertures_[number() % apertures_.size()];
    const auto offset = number();
    const auto data = from_hex(word());
    TRY(check(offset, data.size(), aperture.size));
    for (std::size_t at = 0; at < data.size(); at += piece)
      TRY(write(aperture, offset + at, std::span(data).subspan(at, std::min(piece, data.size() - at))));
    return "";
  }
  Result<void> read(const Aperture& aperture, std::uint64_t offset, std::span<std::byte> data) {
    if (aperture.mapping) {
      const auto* from = reinterpret_cast<const volatile std::uint32_t*>(aperture.mapping.bytes().data() + offset);
      for (std::size_t at = 0; at + 4 <= data.size(); at += 4) {
        const std::uint32_t value = from[at / 4];
        std::memcpy(data.data() + at, &value, 4);
      }
      return {};
    }
    const auto answer = TRY(submit(vfio::RegionRead{aperture.region, offset, static_cast<std::uint32_t>(data.size())}));
    std::ranges::copy(std::get<vfio::Data>(answer).bytes, data.begin());
    return {};
  }
  Result<void> write(const Aperture& aperture, std::uint64_t offset, std::span<const std::byte> data) {
    if (aperture.mapping) {
      auto* to = reinterpret_cast<volatile std::uint32_t*>(aperture.mapping.bytes().data() + offset);
      for (std::size_t at = 0; at + 4 <= data.size(); at += 4) {
        std::uint32_t value;
        std::memcpy(&value, data.data() + at, 4);
        to[at / 4] = value;
      }
      return {};
    }
    TRY(submit(vfio::RegionWrite{aperture.region, offset, {data.begin(), data.end()}}));
    return {};
  }

  static const std::map<std::string, std::function<Text(Probe&)>> verbs_;

  std::shared_ptr<vfio::Device> device_;
  std::shared_ptr<Adapter> adapter_;
  std::array<Fd, fabric::ntb::vector_count> events_;
  std::array<Aperture, fabric::ntb::window_count> apertures_{};
  Fd file_;
  Mapping memory_;
  std::istringstream words_;
};

const std::map<std::string, std::function<Text(Probe&)>> Probe::verbs_{
    {"shape", &Probe::shape},
    {"enable-link", [](Probe& probe) { return probe.does(&Adapter::enable_link); }},
    {"disable-link", [](Probe& probe) { return probe.does(&Adapter::disable_link); }},
    {"await-link", &Probe::await_link},
    {"scratchpads", &Probe::scratchpads},
    {"write-scratchpads", &Probe::write_scratchpads}, // VALUE-OF-THE-FIRST, the next is one more
    {"ring", [](Probe& probe) { return probe.does(&Adapter::ring, probe.small()); }},
    {"doorbells", &Probe::doorbells},
    {"clear", [](Probe& probe) { return probe.does(&Adapter::clear_doorbells, probe.number()); }},
    {"enable", [](Probe& probe) { return probe.does(&Adapter::enable_doorbells, probe.number()); }},
    {"await-doorbell", &Probe::await_doorbell}, // BIT, how often it has signalled
    {"signalled", &Probe::signalled},           // BIT, the same without waiting
    {"open", &Probe::open_window},              // WINDOW OFFSET-IN-MEMORY BYTES
    {"close", [](Probe& probe) { return probe.does(&Adapter::close_window, probe.small()); }},
    {"recover", [](Probe& probe) { return probe.does(&Adapter::recover); }},
    {"reset", &Probe::reset},
    {"map", [](Probe& probe) { return probe.said(probe.map()); }},
    {"unmap", &Probe::unmap},
    {"load", &Probe::load},   // OFFSET BYTES
    {"store", &Probe::store}, // OFFSET HEX
    {"peek", &Probe::peek},   // WINDOW OFFSET BYTES
    {"poke", &Probe::poke},   // WINDOW OFFSET HEX
};

} // namespace

int main(int argc, char** argv) {
  const auto probe = Probe::open(argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "");
  if (!probe) {
    std::cout << "error " << to_string(probe.error()) << std::endl;
    return 1;
  }
  std::cout << "ready" << std::endl;
  Descriptor input(io, ::dup(STDIN_FILENO));
  std::string buffer;
  while (const auto line = await_line(input, buffer)) {
    const auto said = (*probe)->obey(*line);
    std::cout << (!said ? "error " + to_string(said.error()) : said->empty() ? "ok" : "ok " + *said) << std::endl;
  }
  return 0;
}
