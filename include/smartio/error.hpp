// Errors of the public interface: a code for programs, a sentence's worth of context for people.
#pragma once

#include <smartio/version.hpp>

#if SMARTIO_HAS_LANGUAGE

#include <expected>
#include <string>
#include <system_error>

namespace smartio {
inline namespace v0 {

/// What went wrong. `code` is for programs: operating system errors stay in `std::system_category` (so `==
/// std::errc::...` works), this project's own are `Errc`. `context` says what was tried on what, or is the whole
/// sentence.
struct Error {
  std::error_code code;
  std::string context;
};

template <class T> using Result = std::expected<T, Error>;

/// This project's own error codes; smartio_tool's exit codes are a table over them.
enum class Errc {
  no_such_device = 1, ///< no device of that id, address or path is known
  no_such_node,       ///< no node of that number is known
  wrong_state,        ///< the device or node is not in the state the operation needs
  busy,               ///< somebody else uses it
  revoked,            ///< the lender, the link or the device took the loan away
  peer_down,          ///< the other node, daemon or device cannot be reached
  timed_out,          ///< no answer within the time allowed
  no_window,          ///< no room for the memory: aperture, address range or number of windows
  bad_request,        ///< the input is malformed or out of range
  not_permitted,      ///< refused by policy
};

const std::error_category& smartio_category() noexcept;
std::error_code make_error_code(Errc code) noexcept;

/// "context: meaning of the code", or the context alone when it is a whole sentence already (code is an Errc).
std::string to_string(const Error& error);

} // namespace v0
} // namespace smartio

template <> struct std::is_error_code_enum<smartio::Errc> : std::true_type {};

#endif
