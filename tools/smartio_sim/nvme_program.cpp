// `smartio_sim nvme`: its command line.
#include "arguments.hpp"
#include "nvme/file_store.hpp"
#include "nvme_service.hpp"
#include "result.hpp"
#include "text.hpp"

#include <filesystem>
#include <sstream>

namespace smartio::sim {
namespace {

namespace po = boost::program_options;

po::options_description options() {
  po::options_description description("Options");
  auto add = description.add_options();
  add("socket", po::value<std::string>()->value_name("PATH"), "where to listen for a vfio-user client");
  add("file", po::value<std::string>()->value_name("FILE"), "what the disk holds");
  add("size", po::value<std::string>()->value_name("BYTES"), "make or extend the file to this size (K, M, G)");
  add("block-size", po::value<std::string>()->value_name("BYTES")->default_value("512"), "512 or 4096");
  add("help,h", "this text");
  return description;
}

std::string help() {
  std::ostringstream text;
  text << "Usage: smartio_sim nvme --socket PATH --file FILE [--size BYTES] [--block-size BYTES]\n\n"
          "An NVMe controller whose disk is a file. Prints \"ready PATH\" when the socket answers; SIGUSR1 prints a "
          "line\n"
          "of counters, SIGTERM ends it.\n\n"
       << options();
  return text.str();
}

Result<std::uint32_t> block_size(const std::string& text) {
  if (text == "512") return 512;
  if (text == "4096") return 4096;
  return fail(Errc::bad_request, "Blocks are of 512 or 4096 bytes, not {}.", text);
}

Result<std::optional<std::uint64_t>> file_size(const po::variables_map& values, std::uint32_t block) {
  if (!values.contains("size")) return std::nullopt;
  const auto& text = values["size"].as<std::string>();
  const std::uint64_t bytes = TRY(parse_size(text));
  if (bytes == 0 || bytes % block != 0 || bytes > INT64_MAX)
    return fail(Errc::bad_request, "{} bytes are not a whole number of blocks of {}.", text, block);
  return bytes;
}

/// The file's one name, whatever way it was given: the identity of the disk hangs on it.
std::string identity_of(const std::string& path) {
  std::error_code failed;
  const auto canonical = std::filesystem::canonical(path, failed);
  return failed ? path : canonical.string();
}

Result<void> run(const std::vector<std::string>& arguments) {
  const auto values = TRY(parse(nvme_model, arguments, options(), {"socket", "file"}));
  const auto block = TRY(block_size(values["block-size"].as<std::string>()));
  const auto size = TRY(file_size(values, block));
  const auto& path = values["file"].as<std::string>();
  const auto& socket = values["socket"].as<std::string>();
  auto store = TRY(nvme::FileStore::open(path, size, block));
  const auto identity = nvme::make_identity(identity_of(path), store.blocks(), block);
  NvmeService service(std::make_shared<nvme::FileStore>(std::move(store)), identity);
  TRY(service.listen(socket));
  fmt::print("ready {}\n", socket);
  std::fflush(stdout);
  service.run();
  return {};
}

} // namespace

const Model nvme_model{"nvme", "an NVMe controller whose disk is a file", help, run};

} // namespace smartio::sim
