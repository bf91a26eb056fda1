// A host whose sysfs, configfs and /proc may hold anything, and change while they are read. Looking at its functions,
// asking who uses them, and taking and giving them back ends, leaves no descriptor, and what it says is a sentence.
#include "hostile_host.hpp"

#include "any_client.hpp"
#include "host/binding.hpp"
#include "host/filter.hpp"
#include "host/holders.hpp"
#include "host/lendable.hpp"
#include "script.hpp"
#include "sentence.hpp"

#include <cstdarg>
#include <sys/syscall.h>

using namespace smartio;
using namespace smartio::vfio::host;
using namespace smartio::test;
using namespace testing;

namespace {

constexpr unsigned most_asked = 3; ///< times that a script may ask for everything

void check_sentences(const std::vector<std::string>& sentences) { std::ranges::for_each(sentences, check_sentence); }

struct World : HostileHost {
  unsigned asked = 0;
  std::optional<Binder> binder;
  std::string pending; ///< a step
  std::uint64_t opens = 0;

  void look_at(const Function& function);
  void ask();
  void open_binder();
  void take(const std::vector<Bdf>& functions);
  void give_back();
  void opened(std::string_view path);
};

World* playing = nullptr;

void World::look_at(const Function& function) {
  require(std::ranges::is_sorted(function.group_members));
  check_result(check_lendable(tree.root(), function));
  check_sentences(group_conflicts(tree.root(), function, {}));
  check_sentences(uses_of(tree.root(), function, system()));
  check_sentences(vfio_holders(tree.root(), function));
  require(smartio::vfio::host::Filter::parse("", to_string(function.bdf))->matches(function));
}

void World::ask() {
  if (++asked > most_asked) return;
  const auto functions = list_functions(tree.root());
  if (!check_result(functions)) return;
  for (std::size_t i = 0; i < std::min<std::size_t>(functions->size(), 8); ++i) {
    const auto bdf = (*functions)[i];
    if (const auto config = read_config(tree.root(), bdf); check_result(config))
      require(config->size() == 64 || config->size() == 256 || config->size() == 4096);
    if (const auto serial = nvme_serial(tree.root(), bdf)) check_sentence(*serial);
    if (const auto found = read_function(tree.root(), bdf); check_result(found)) look_at(*found);
  }
  for (const auto* text : {"06:00.0", "06:", "05:00.", "1\n2", ""}) check_result(find_function(tree.root(), text));
}

void World::open_binder() {
  auto opened_now = Binder::open(tree.root(), tree.at("state"), system());
  if (check_result(opened_now)) binder.emplace(std::move(*opened_now));
  if (!binder) return;
  if (const auto report = binder->recover(); check_result(report)) check_sentences(*report);
}

void World::take(const std::vector<Bdf>& functions) {
  if (!binder) open_binder();
  if (!binder || ++asked > 4 * most_asked) return;
  check_result(binder->take(functions, [this](const Bdf& bdf) -> Result<void> {
    TRY(read_function(tree.root(), bdf));
    return {};
  }));
}

void World::give_back() {
  if (!binder) return;
  for (const auto& error : binder->give_back_all()) check_sentence(to_string(error));
}

std::vector<Bdf> functions_of(unsigned group) {
  if (group == 0) return {*parse_bdf("0000:06:00.0")};
  if (group == 1) return {*parse_bdf("0000:05:00.0"), *parse_bdf("0000:05:00.1")};
  return {*parse_bdf("0000:06:00.0"), *parse_bdf("0000:07:00.0"), *parse_bdf("0000:08:00.0")};
}

/// "\n", "\0" and so on as one byte.
std::string with_escapes(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '\\' && i + 1 < text.size();
    const char next = escape ? text[i + 1] : text[i];
    plain += !escape ? next : next == 'n' ? '\n' : next == 't' ? '\t' : next == 'r' ? '\r' : next == '0' ? '\0' : next;
    i += escape ? 1 : 0;
  }
  return plain;
}

std::string repeated(const std::string& text, std::uint64_t times) {
  std::string all;
  while (times-- > 0 && all.size() < 1U << 16) all += text;
  return all;
}

/// What two or three numbers name together, each a digit to base 5: numbers below that are what mutations like most.
template <class T> const T& pick(Line& line, const std::vector<T>& list) {
  std::uint64_t at = 0;
  for (std::size_t reach = 1; reach < list.size(); reach *= 5) at = 5 * at + line.next();
  return list[at % list.size()];
}

void add_entries(World& w, const std::string& place, std::uint64_t count, std::uint64_t kind) {
  w.change([&] {
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto path = place + '/' + (kind == 0 ? "x" + std::to_string(i) : fmt::format("0000:{:02x}:00.0", i % 256));
      kind == 2 ? w.tree.folder(path) : w.tree.file(path, "0x1\n");
    }
  });
}

constexpr auto steps = std::to_array<Step<World>>({
    {"ask", [](World& w, Line&) { w.ask(); }},
    {"at", // which open from now, before or after which the rest of the line is done
     [](World& w, Line& l) {
       w.opens = 1 + l.below(256);
       w.pending = l.rest();
     }},
    {"back", [](World& w, Line&) { w.give_back(); }},
    {"busy",
     [](World& w, Line& l) {
       w.busy = std::array{0, EBUSY, ENXIO, EIO, 4096}[l.below(5)];
     }},
    {"child", // place, name, subsystem, number
     [](World& w, Line& l) {
       w.change([&] {
         const auto folder = pick(l, places) + '/' + pick(l, names);
         const auto& subsystem = pick(l, subsystems);
         add_child(w.tree, folder, subsystem, pick(l, texts), pick(l, names));
       });
     }},
    {"config", // offset, bytes, value
     [](World& w, Line& l) {
       const auto at = l.next(), bytes = l.below(8), value = l.next();
       for (std::uint64_t i = 0; i < bytes; ++i)
         w.config[(at + i) % w.config.size()] = static_cast<char>(value >> 8 * i & 0xff);
       w.replace(device + "config", [&] { w.tree.file(device + "config", w.config); });
     }},
    {"crash", [](World& w, Line&) { w.binder.reset(); }},
    {"deep", // place, levels
     [](World& w, Line& l) {
       auto path = pick(l, places);
       for (auto levels = l.below(64); levels > 0; --levels) path += "/d";
       w.change([&] { add_child(w.tree, path, "block", "259:9"); });
     }},
    {"entries", // place, how many, kind
     [](World& w, Line& l) {
       const auto& place = pick(l, places);
       const auto count = l.below(300);
       add_entries(w, place, count, l.below(3));
     }},
    {"fifo",
     [](World& w, Line& l) {
       const auto& place = pick(l, places);
       w.replace(place, [&] { ::mkfifo(w.tree.at(place).c_str(), 0600); });
     }},
    {"folder",
     [](World& w, Line& l) {
       const auto& place = pick(l, places);
       w.replace(place, [&] { w.tree.folder(place); });
     }},
    {"gone", [](World& w, Line& l) { w.change([&] { w.tree.remove(pick(l, places)); }); }},
    {"hole", // place, size
     [](World& w, Line& l) {
       const auto& place = pick(l, places);
       w.replace(place, [&] {
         w.tree.file(place, "1");
         std::filesystem::resize_file(w.tree.at(place), std::array{63UL, 4097UL, 65537UL, 2UL << 20}[l.below(4)]);
       });
     }},
    {"lead", // place, where else
     [](World& w, Line& l) {
       const auto& place = pick(l, places);
       w.replace(place, [&] { w.tree.link(place, pick(l, elsewhere)); });
     }},
    {"link", // place, place
     [](World& w, Line& l) {
       const auto& place = pick(l, places);
       w.replace(place, [&] { w.tree.link(place, pick(l, places)); });
     }},
    {"name", // place, name, text: an entry there
     [](World& w, Line& l) {
       const auto path = pick(l, places) + '/' + pick(l, names);
       w.change([&] { l.flag() ? w.tree.folder(path) : w.tree.file(path, pick(l, texts)); });
     }},
    {"process", // id, text, how it has what
     [](World& w, Line& l) {
       const auto folder = "proc/" + std::to_string(l.next());
       w.change([&] {
         w.tree.file(folder + "/comm", pick(l, texts));
         w.tree.link(folder + "/fd/3", pick(l, elsewhere));
         w.tree.file(folder + "/maps", pick(l, texts));
       });
     }},
    {"refuse", // how, after how many writes
     [](World& w, Line& l) {
       const std::error_code kinds[]{
           {}, {EIO, std::system_category()}, make_error_code(Errc::timed_out), {ENODEV, std::system_category()}};
       const auto kind = l.of(kinds);
       w.refusal = kind ? std::optional(Error{kind, "as told"}) : std::nullopt;
       w.obeyed = l.below<unsigned>(8);
     }},
    {"repeat", // place, text, times
     [](World& w, Line& l) {
       const auto& place = pick(l, places);
       const auto& text = pick(l, texts);
       w.replace(place, [&] { w.tree.file(place, repeated(text, l.next())); });
     }},
    {"take", [](World& w, Line& l) { w.take(functions_of(l.below<unsigned>(3))); }},
    {"text", // place, what
     [](World& w, Line& l) {
       const auto& place = pick(l, places);
       w.replace(place, [&] { w.tree.file(place, with_escapes(l.rest())); });
     }},
    {"write", // place, text
     [](World& w, Line& l) {
       const auto& place = pick(l, places);
       w.replace(place, [&] { w.tree.file(place, pick(l, texts)); });
     }},
});

/// Does what was to be done at this moment. Only what changes the tree: what asks would ask within itself.
void World::opened(std::string_view path) {
  require(!path.starts_with(tree.path()) || path.find("/../") == path.npos);
  if (opens == 0 || --opens != 0) return;
  Line line(pending);
  constexpr std::array not_now{"ask", "at", "back", "crash", "take"};
  if (std::ranges::count(not_now, line.step()) != 0) return;
  const auto found = std::ranges::find(steps, line.step(), &Step<World>::name);
  if (found != steps.end()) found->run(*this, line);
}

} // namespace

/// In front of the C library's: the tree changes just after a file was opened, before it is read.
extern "C" int open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const auto mode = (flags & O_CREAT) != 0 ? va_arg(arguments, unsigned) : 0U;
  va_end(arguments);
  int fd = -1;
  do // what waits goes on waiting when the fuzzer looks at the clock
    fd = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, flags, mode));
  while (fd < 0 && errno == EINTR);
  const int error = errno;
  if (playing != nullptr) playing->opened(path);
  errno = error;
  return fd;
}

std::vector<std::string_view> test::script_steps() { return names_of(std::span<const Step<World>>(steps)); }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto before = descriptors_now();
  {
    World world;
    playing = &world;
    play({reinterpret_cast<const char*>(data), size}, std::span<const Step<World>>(steps), world);
    world.asked = std::min(world.asked, most_asked - 1);
    world.ask();
    world.take(functions_of(0));
    world.give_back();
    playing = nullptr;
  }
  require(descriptors_now() == before);
  return 0;
}
