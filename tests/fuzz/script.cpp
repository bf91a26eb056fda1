// How scripts are mutated and crossed; compiled into the fuzzers that play them.
#include "script.hpp"

#include <cstring>
#include <random>

using namespace smartio::test;

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace {

using Lines = std::vector<std::string>;

Lines split(const std::uint8_t* data, std::size_t size, char at) {
  Lines parts;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  while (!text.empty()) {
    const auto end = text.find(at);
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
  return parts;
}

Lines split(const std::string& text, char at) {
  return split(reinterpret_cast<const std::uint8_t*>(text.data()), text.size(), at);
}

/// As many whole lines as fit.
std::size_t join(const Lines& lines, std::uint8_t* to, std::size_t most) {
  std::size_t size = 0;
  for (const auto& line : lines) {
    if (line.size() + 1 > most - size) break;
    std::memcpy(to + size, line.data(), line.size());
    size += line.size();
    to[size++] = '\n';
  }
  return size;
}

class Mutation {
public:
  explicit Mutation(unsigned seed) : random_(seed) {}

  void change(Lines& lines) {
    if (lines.empty() || below(4) == 0) return insert(lines);
    auto& line = lines[below(lines.size())];
    switch (below(8)) {
    case 0: lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(below(lines.size()))); break;
    case 1: lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(below(lines.size())), std::string(line)); break;
    case 2: std::swap(line, lines[below(lines.size())]); break;
    case 3: mutate(line); break;
    default: change_number(line);
    }
  }
  std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }

private:
  void insert(Lines& lines) {
    const auto steps = script_steps();
    std::string line(steps[below(steps.size())]);
    for (auto count = below(6); count > 0; --count) line += ' ' + number();
    lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(below(lines.size() + 1)), std::move(line));
  }

  void change_number(std::string& line) {
    auto words = split(line, ' ');
    if (words.size() < 2) return line.append(' ' + number()), void();
    words[1 + below(words.size() - 1)] = number();
    line.clear();
    for (const auto& word : words) line += word + ' ';
    line.pop_back();
  }

  void mutate(std::string& line) {
    const auto size = line.size();
    line.resize(size + 16);
    line.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(line.data()), size, line.size()));
    std::ranges::replace(line, '\n', ' ');
  }

  /// Mostly one that names something.
  std::string number() {
    static constexpr std::uint64_t odd[] = {16,     17,     31,         32,         63,        64,       255,
                                            256,    0x1000, 0xffff,     0x10000,    0x80000,   0x40000,  0x80001,
                                            0x2000, 4095,   UINT32_MAX, UINT64_MAX, INT64_MAX, 1U << 30, 1ULL << 32};
    if (below(4) != 0) return std::to_string(below(5));
    if (below(2) == 0) return std::to_string(below(256));
    return std::to_string(odd[below(std::size(odd))] + below(3) - 1);
  }

  std::minstd_rand random_;
};

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  auto lines = split(data, size, '\n');
  Mutation mutation(seed);
  for (auto count = 1 + mutation.below(4); count > 0; --count) mutation.change(lines);
  return join(lines, data, most);
}

extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t* first, std::size_t first_size,
                                                 const std::uint8_t* second, std::size_t second_size, std::uint8_t* to,
                                                 std::size_t most, unsigned seed) {
  auto lines = split(first, first_size, '\n');
  const auto others = split(second, second_size, '\n');
  Mutation mutation(seed);
  lines.resize(mutation.below(lines.size() + 1));
  lines.insert(lines.end(), others.begin() + static_cast<std::ptrdiff_t>(mutation.below(others.size() + 1)),
               others.end());
  return join(lines, to, most);
}
