// PCI functions that come and go, as the kernel announces them.
#pragma once

#include "bdf.hpp"
#include "fd.hpp"

#include <smartio/error.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>

namespace smartio::vfio::host {

struct Uevent {
  enum class Kind {
    appeared,
    vanished,
    bound,      ///< a driver has taken it
    unbound,    ///< its driver has let it go
    identified, ///< its driver has asked it who it is: an NVMe controller (drivers/nvme/host/core.c, nvme_start_ctrl)
    lost,       ///< more happened than could be kept: look at everything again (`bdf` says nothing)
  };
  Kind kind;
  Bdf bdf;
  bool operator==(const Uevent&) const = default;
};

/// One message of the kernel, as lib/kobject_uevent.c writes it; nullopt for what is not about a PCI function, or not
/// one of those kinds.
std::optional<Uevent> parse_uevent(std::span<const std::byte> message);

/// Listens until it is destroyed. Messages of anyone but the kernel are dropped.
class Uevents {
public:
  using Handler = std::function<void(const Uevent&)>; ///< called on the executor; may destroy the Uevents

  /// An errno if this host has no such socket.
  static Result<Uevents> open(boost::asio::any_io_executor executor, Handler handler);

  Uevents(Uevents&&) noexcept;
  Uevents& operator=(Uevents&&) noexcept;
  ~Uevents();
  int fd() const noexcept; ///< borrowed

private:
  struct State;
  explicit Uevents(std::shared_ptr<State> state) : state_(std::move(state)) {}
  void close() noexcept;
  std::shared_ptr<State> state_;
};

} // namespace smartio::vfio::host
