// Making and passing on errors.
#pragma once

#include <smartio/error.hpp>

#include <cerrno>
#include <fmt/format.h>
#include <utility>

namespace smartio {

/// An error of this project; `context` is a whole sentence.
template <class... Args> std::unexpected<Error> fail(Errc code, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{make_error_code(code), fmt::format(format, std::forward<Args>(args)...)});
}

/// An operating system error: `number` is an errno, `context` what was tried on what.
inline std::unexpected<Error> fail_errno(int number, std::string context) {
  return std::unexpected(Error{std::error_code(number, std::system_category()), std::move(context)});
}

/// The value, or return the error from the enclosing function. Not in coroutines; at most one per statement, and
/// nothing before it in that statement may make a temporary that owns something: the return would leak it.
#define TRY(expression)                                                                                                \
  __extension__({                                                                                                      \
    auto try_result = (expression);                                                                                    \
    if (!try_result) return std::unexpected(std::move(try_result).error());                                            \
    std::move(try_result).value();                                                                                     \
  })

} // namespace smartio
