#include <smartio/error.hpp>
#include <smartio/version.hpp>

#include <fmt/format.h>

namespace smartio {
namespace {

class Category final : public std::error_category {
  const char* name() const noexcept override { return "smartio"; }
  std::string message(int value) const override {
    switch (static_cast<Errc>(value)) {
    case Errc::no_such_device: return "no such device";
    case Errc::no_such_node: return "no such node";
    case Errc::wrong_state: return "wrong state";
    case Errc::busy: return "in use";
    case Errc::revoked: return "taken back";
    case Errc::peer_down: return "not reachable";
    case Errc::timed_out: return "timed out";
    case Errc::no_window: return "no window";
    case Errc::bad_request: return "bad request";
    case Errc::not_permitted: return "not permitted";
    }
    return "unknown error";
  }
};

} // namespace

inline namespace v0 {

const char* version() noexcept { return SMARTIO_VERSION; }

const std::error_category& smartio_category() noexcept {
  static const Category category;
  return category;
}

std::error_code make_error_code(Errc code) noexcept { return {static_cast<int>(code), smartio_category()}; }

std::string to_string(const Error& error) {
  if (error.code.category() == smartio_category() && !error.context.empty()) return error.context;
  return fmt::format("{}: {}", error.context, error.code.message());
}

} // namespace v0
} // namespace smartio
