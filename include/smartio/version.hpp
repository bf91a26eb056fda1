// The version of these headers, and the language they need.
#pragma once

// GCC 12 has C++23 as 202100L.
#if __cplusplus > 202002L
#define SMARTIO_HAS_LANGUAGE 1
#else
#define SMARTIO_HAS_LANGUAGE 0
#error "smartio needs C++23: compile with -std=c++23 or later"
#endif

#define SMARTIO_VERSION "0.1.0" ///< MAJOR.MINOR.PATCH
#define SMARTIO_VERSION_MAJOR 0
#define SMARTIO_VERSION_MINOR 1
#define SMARTIO_VERSION_PATCH 0

#if SMARTIO_HAS_LANGUAGE
namespace smartio {
inline namespace v0 {

/// SMARTIO_VERSION of the library this program runs with. Programs run with each library of the same soname
/// (libsmartio.so.0) that is not older than the headers they were compiled with.
const char* version() noexcept;

} // namespace v0
} // namespace smartio
#endif
