// A node's answers, as programs get them.
#pragma once

#include "json.hpp"
#include "result.hpp"

#include <cstddef>
#include <functional>
#include <map>
#include <smartio/types.hpp>
#include <string>
#include <vector>

namespace smartio {

// Errc::bad_request: the answer is not what its schema says.
Result<DeviceId> parse_id(const core::Json& text);
Result<DeviceInfo> parse_device_info(const core::Json& object); ///< an entry of list
Result<DeviceInfo> parse_shown_device(const core::Json& shown); ///< the one that show is about
Result<PeerInfo> parse_peer(const core::Json& object);
Result<LoanInfo> parse_loan(const core::Json& object);
Result<Filters> parse_filters(const core::Json& object);
Result<std::map<std::string, std::string>> parse_options(const core::Json& object);
Result<std::vector<std::byte>> parse_hex(const std::string& digits);

/// All of the array `key` of `object`.
template <class T, class Parse>
Result<std::vector<T>> parse_all(const core::Json& object, const char* key, Parse parse) {
  const auto list = object.find(key);
  if (list == object.end() || !list->is_array()) return fail(Errc::bad_request, "the node sent no list of {}", key);
  std::vector<T> all;
  for (const auto& entry : *list) all.push_back(TRY(parse(entry)));
  return all;
}

/// Whether a device is one of `filter`. Errc::bad_request: lspci would not understand it.
Result<std::function<bool(const DeviceInfo&)>> matcher(const Filter& filter);

} // namespace smartio
