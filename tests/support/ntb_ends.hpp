// Both ends of the simulated bridge, each driven by an adapter.
#pragma once

#include "ntb/adapter.hpp"
#include "ntb_pair.hpp"

namespace smartio::testing {

using fabric::ntb::Adapter;

inline Result<std::shared_ptr<Adapter>> open_adapter(NtbHost& host) {
  std::optional<Result<std::shared_ptr<Adapter>>> result;
  Adapter::open(host.device, [&result](auto opened) { result.emplace(std::move(opened)); });
  REQUIRE(result.has_value());
  return std::move(*result);
}

/// The result of an operation of an adapter, which completes at once on the simulated bridge.
template <class... Args, class... Given>
Result<void> did(Adapter& adapter, void (Adapter::*operation)(Args...), Given&&... given) {
  std::optional<Result<void>> result;
  (adapter.*operation)(std::forward<Given>(given)...,
                       [&result](Result<void> done) { result.emplace(std::move(done)); });
  REQUIRE(result.has_value());
  return std::move(*result);
}

template <class T, class... Args, class... Given>
T told(Adapter& adapter, void (Adapter::*operation)(Args...), Given&&... given) {
  std::optional<Result<T>> result;
  (adapter.*operation)(std::forward<Given>(given)..., [&result](Result<T> value) { result.emplace(std::move(value)); });
  REQUIRE(result.has_value());
  REQUIRE(result->has_value());
  return **result;
}

struct End {
  std::shared_ptr<Adapter> adapter;
  std::vector<Fd> events; ///< ours; the adapter has duplicates

  explicit End(NtbHost& host) : adapter(open_adapter(host).value()) {
    std::vector<Fd> given;
    for (unsigned i = 0; i < fabric::ntb::vector_count; ++i) {
      events.push_back(make_eventfd().value());
      given.push_back(events.back().duplicate().value());
    }
    REQUIRE(did(*adapter, &Adapter::start, std::move(given)).has_value());
  }
  bool signalled(unsigned vector) { return drain_eventfd(events[vector].get()) > 0; }
  unsigned link_vector() const { return adapter->shape().link_vector; }
};

struct Ends {
  explicit Ends(const char* chip) : pair(chip, false), a(pair.a), b(pair.b) {
    REQUIRE(did(*a.adapter, &Adapter::enable_link).has_value());
    REQUIRE(did(*b.adapter, &Adapter::enable_link).has_value());
  }
  NtbPair pair;
  End a, b;
};

inline constexpr Iova memory{NtbHost::memory_at};
inline constexpr std::uint64_t window = NtbHost::window_bytes;

} // namespace smartio::testing
