// Inputs as text: each line is a step, its first word says which, numbers follow. A mutation (script.cpp) inserts,
// drops and moves whole steps and changes single numbers, so that inputs keep their sense; and seeds can be read.
#pragma once

#include "text.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace smartio::test {

/// The steps a fuzzer knows, for the mutation.
std::vector<std::string_view> script_steps();

class Line {
public:
  explicit Line(std::string_view text) : rest_(text), step_(word()) {}
  std::string_view step() const { return step_; }
  std::string_view rest() const { return rest_; } ///< what no next() has taken

  /// The next number; 0 where there is none.
  std::uint64_t next() {
    auto text = word();
    const bool hex = text.starts_with("0x");
    if (hex) text.remove_prefix(2);
    return parse_number(text, hex ? 16 : 10).value_or(0);
  }
  template <class T = std::uint64_t> T below(std::uint64_t limit) { return static_cast<T>(next() % limit); }
  bool flag() { return next() % 2 != 0; }
  template <class Range> auto& of(Range& range) { return *std::next(std::begin(range), below<long>(std::size(range))); }

private:
  std::string_view word() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size()));
    const auto found = rest_.substr(0, rest_.find(' '));
    rest_.remove_prefix(found.size());
    return found;
  }
  std::string_view rest_, step_;
};

/// What a step does to a T, by its name.
template <class T> struct Step {
  std::string_view name;
  void (*run)(T&, Line&);
};

template <class T> std::vector<std::string_view> names_of(std::span<const Step<T>> steps) {
  std::vector<std::string_view> names;
  for (const auto& step : steps) names.push_back(step.name);
  return names;
}

/// At most this many lines count, so that no input takes long.
inline constexpr std::size_t most_lines = 256;

template <class T> void play(std::string_view script, std::span<const Step<T>> steps, T& on) {
  for (std::size_t i = 0; !script.empty() && i < most_lines; ++i) {
    Line line(script.substr(0, script.find('\n')));
    script.remove_prefix(std::min(script.find('\n'), script.size() - 1) + 1);
    const auto found = std::ranges::find(steps, line.step(), &Step<T>::name);
    if (found != steps.end()) found->run(on, line);
  }
}

} // namespace smartio::test
