// `smartio_sim nvme`: its command line.
#include "announce.hpp"
#include "arguments.hpp"
#include "nvme/fault_commands.hpp"
#include "nvme/file_store.hpp"
#include "nvme_service.hpp"
#include "result.hpp"
#include "text.hpp"

#include <charconv>
#include <sstream>

namespace smartio::sim {
namespace {

namespace po = boost::program_options;

po::options_description options() {
  const auto text = [](const char* name) { return po::value<std::string>()->value_name(name); };
  po::options_description description("Options");
  auto add = description.add_options();
  add("socket", text("PATH"), "where to listen for a vfio-user client");
  add("file", text("FILE"), "what the disk holds");
  add("size", text("BYTES"), "make or extend the file to this size (K, M, G)");
  add("block-size", text("BYTES")->default_value("512"), "512 or 4096");
  add("namespaces", text("N")->default_value("1"), "1 to 1024; they share the file equally, one after the other");
  add("vectors", text("N")->default_value("65"), "MSI-X vectors, 1 to 2048");
  add("no-msix", "a function without MSI-X: INTx only");
  add("mqes", text("N")->default_value("1023"), "CAP.MQES, a queue's most entries less one: 1 to 65535");
  add("dstrd", text("N")->default_value("0"), "CAP.DSTRD, doorbells 4 << N bytes apart: 0 to 15");
  add("identity", text("NAME"), "what serial number and UUID are made of; else the file's own (see below)");
  add("faults", text("PATH"), "where to listen for faults to inject");
  add("help,h", "this text");
  return description;
}

std::string help() {
  std::ostringstream text;
  text << "Usage: smartio_sim nvme --socket PATH --file FILE [OPTIONS]\n\n"
          "An NVMe controller whose disk is a file. Prints \"ready PATH\" when the socket answers; SIGUSR1 prints a "
          "line\n"
          "of counters, SIGTERM ends it.\n\n"
       << options()
       << "\nThe disk is the same disk, by serial number and UUID, as long as it is the same file, however it is named "
          "and\n"
          "wherever it is moved in its file system; a copy is another disk. --identity NAME makes it the disk of that "
          "name.\n"
          "Once a flush of the file has failed, none succeeds until the program is started again.\n"
          "\nFaults, one to a line, each answered with \"ok\" or \"unknown\":\n"
       << nvme::fault_help;
  return text.str();
}

Result<std::uint32_t> number(const po::variables_map& values, const char* name, std::uint32_t least,
                             std::uint32_t most) {
  const auto& text = values[name].as<std::string>();
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    return fail(Errc::bad_request, "--{} is a number from {} to {}, not {}.", name, least, most, text);
  return value;
}

Result<nvme::Shape> shape(const po::variables_map& values) {
  nvme::Shape shape;
  shape.vectors = TRY(number(values, "vectors", 1, 2048));
  if (values.contains("no-msix") && !values["vectors"].defaulted())
    return fail(Errc::bad_request, "--no-msix leaves no vectors for --vectors.");
  if (values.contains("no-msix")) shape.vectors = 0;
  shape.queue_entries = TRY(number(values, "mqes", 1, 65535)) + 1;
  shape.doorbell_stride = TRY(number(values, "dstrd", 0, 15));
  return shape;
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

Result<std::string> identity_name(const po::variables_map& values, const nvme::FileStore& store) {
  if (values.contains("identity")) return values["identity"].as<std::string>();
  return store.name();
}

Result<void> run(const std::vector<std::string>& arguments) {
  const auto values = TRY(parse(nvme_model, arguments, options(), {"socket", "file"}));
  const auto block = TRY(block_size(values["block-size"].as<std::string>()));
  const auto size = TRY(file_size(values, block));
  const auto& path = values["file"].as<std::string>();
  const auto& socket = values["socket"].as<std::string>();
  const auto namespaces = TRY(number(values, "namespaces", 1, nvme::max_namespaces));
  const auto form = TRY(shape(values));
  auto store = TRY(nvme::FileStore::open(path, size, block));
  if (store.blocks() < namespaces)
    return fail(Errc::bad_request, "{} blocks are not enough for {} namespaces.", store.blocks(), namespaces);
  const auto name = TRY(identity_name(values, store));
  const auto identity = nvme::make_identity(name, store.blocks(), block, namespaces);
  NvmeService service(std::make_unique<nvme::FileStore>(std::move(store)), identity, form);
  if (values.contains("faults")) TRY(service.listen_for_faults(values["faults"].as<std::string>()));
  TRY(service.listen(socket));
  announce("ready " + socket);
  service.run();
  return {};
}

} // namespace

const Model nvme_model{"nvme", "an NVMe controller whose disk is a file", help, run};

} // namespace smartio::sim
