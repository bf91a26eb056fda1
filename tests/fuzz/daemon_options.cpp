// Any configuration file of smartiod, and any command line: what stands before the first '{', a word on each line. What
// is refused is so with a sentence, which names the file where that alone can be wrong.
#include "fd.hpp"
#include "options.hpp"
#include "sentence.hpp"
#include "text.hpp"

#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>

using namespace smartio;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> found{"smartiod"};
  for (; !text.empty() && found.size() < 64; text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1)) {
    found.emplace_back(text.substr(0, text.find('\n')));
    std::erase(found.back(), '\0');
  }
  return found;
}

} // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  require(std::freopen("/dev/null", "w", stdout) != nullptr); // what --help prints
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto brace = std::min(text.find('{'), size);
  auto arguments = words(text.substr(0, brace));
  const Fd file(::memfd_create("config", MFD_CLOEXEC));
  require(::write(file.get(), text.data() + brace, size - brace) == static_cast<ssize_t>(size - brace));
  if (brace < size)
    arguments.insert(arguments.begin() + 1, {"--config", "/proc/self/fd/" + std::to_string(file.get())});
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const auto config = read_options(static_cast<int>(arguments.size()), argv.data());
  if (!test::check_result(config)) {
    const auto sentence = to_string(config.error());
    const bool file_alone = brace < size && arguments.size() == 3;
    require(!file_alone || sentence.starts_with(arguments[2] + ": ") || sentence.ends_with("give --node ID"));
    return 0;
  }
  if (!*config) return 0; // help
  require((*config)->node != NodeId{});
  for (const auto& [node, address] : (*config)->nodes) require(node != NodeId{});
  const auto silence = (*config)->peer_timeout.count();
  require(silence >= 1000 && silence <= 60000);
  return 0;
}
