#include "exit_code.hpp"

namespace smartio {

int exit_code(const Error& error) noexcept {
  const auto& code = error.code;
  if (code.category() != smartio_category()) return code == std::errc::permission_denied ? 5 : 1;
  switch (static_cast<Errc>(code.value())) {
  case Errc::bad_request: return 2;
  case Errc::no_such_device:
  case Errc::no_such_node: return 3;
  case Errc::busy:
  case Errc::wrong_state:
  case Errc::revoked: return 4;
  case Errc::not_permitted: return 5;
  case Errc::peer_down:
  case Errc::timed_out: return 6;
  case Errc::no_window: return 1;
  }
  return 1;
}

} // namespace smartio
