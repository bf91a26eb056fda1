#include "report.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

using Json = nlohmann::ordered_json;
using smartio::Errc;

namespace {

std::string document(Json fields) {
  Json whole{{"schema_version", 1}};
  whole.update(fields);
  return whole.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

double microseconds(std::uint64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1000; }

} // namespace

std::string identity_report(const nvme::Identity& identity, bool json) {
  if (json)
    return document({{"model", identity.model},
                     {"serial", identity.serial},
                     {"firmware", identity.firmware},
                     {"vendor", fmt::format("{:04x}", identity.vendor)},
                     {"version", identity.version},
                     {"queue_entries", identity.queue_entries},
                     {"max_transfer_bytes", identity.max_transfer},
                     {"write_cache", identity.write_cache},
                     {"block_bytes", identity.block_size},
                     {"blocks", identity.blocks}});
  return fmt::format("model         {}\nserial        {}\nfirmware      {}\nvendor        {:04x}\n"
                     "NVMe version  {}\nqueue entries {}\nmax transfer  {} bytes\nwrite cache   {}\n"
                     "namespace 1   {} blocks of {} bytes ({:.1f} MiB)\n",
                     identity.model, identity.serial, identity.firmware, identity.vendor, identity.version,
                     identity.queue_entries, identity.max_transfer, identity.write_cache ? "yes" : "no",
                     identity.blocks, identity.block_size,
                     static_cast<double>(identity.blocks * identity.block_size) / (1 << 20));
}

std::string bench_report(const nvme::Measured& measured, const nvme::Workload& workload, bool interrupts, bool json) {
  const nvme::Latencies& latencies = measured.latencies;
  const double iops = measured.seconds > 0 ? static_cast<double>(latencies.count()) / measured.seconds : 0;
  const double mib = iops * static_cast<double>(workload.bytes) / (1 << 20);
  const double min = microseconds(latencies.min()), median = microseconds(latencies.percentile(50)),
               p99 = microseconds(latencies.percentile(99)), max = microseconds(latencies.max());
  const char* name = workload.write ? "randwrite" : "randread";
  if (json)
    return document({{"rw", name},
                     {"block_bytes", workload.bytes},
                     {"queue_depth", workload.depth},
                     {"interrupts", interrupts},
                     {"commands", latencies.count()},
                     {"seconds", measured.seconds},
                     {"iops", iops},
                     {"mib_per_second", mib},
                     {"latency_us", {{"min", min}, {"median", median}, {"p99", p99}, {"max", max}}}});
  return fmt::format("{} of {} bytes at queue depth {}, {}: {} commands in {:.2f} s\n"
                     "{:.0f} IOPS, {:.1f} MiB/s\n"
                     "latency in us: min {:.1f}, median {:.1f}, p99 {:.1f}, max {:.1f}\n",
                     name, workload.bytes, workload.depth, interrupts ? "by interrupts" : "polled", latencies.count(),
                     measured.seconds, iops, mib, min, median, p99, max);
}

std::string error_report(int exit_code, const std::string& message) {
  return document({{"error", {{"exit", exit_code}, {"message", message}}}});
}
