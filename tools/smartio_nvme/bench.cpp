#include "bench.hpp"

#include "result.hpp"

#include <bit>
#include <random>

namespace nvme {
namespace {

using smartio::Errc;
using smartio::fail;
using smartio::Result;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t default_seconds = 5;

Result<void> check(const Driver& driver, const Workload& workload) {
  const Identity& identity = driver.identity();
  if (workload.bytes == 0 || workload.bytes % identity.block_size != 0 || workload.bytes > identity.max_transfer)
    return fail(Errc::bad_request, "--bs is a multiple of {}, at most {}, not {}", identity.block_size,
                identity.max_transfer, workload.bytes);
  if (workload.depth == 0 || workload.depth > driver.max_depth())
    return fail(Errc::bad_request, "--qd is 1 to {}, not {}", driver.max_depth(), workload.depth);
  if (workload.bytes / identity.block_size > identity.blocks)
    return fail(Errc::bad_request, "--bs {} is more than the whole device", workload.bytes);
  return {};
}

// Buckets: values below 256 have one each; above, 128 for every power of two.
constexpr std::size_t bucket_of(std::uint64_t value) {
  const unsigned shift = value < 256 ? 0 : static_cast<unsigned>(std::bit_width(value)) - 8;
  return shift * 128 + (value >> shift);
}
constexpr std::uint64_t middle_of(std::size_t bucket) {
  if (bucket < 256) return bucket;
  const std::size_t shift = bucket / 128 - 1;
  return ((bucket - shift * 128) << shift) + (std::uint64_t{1} << shift) / 2;
}
static_assert(bucket_of(255) == 255 && bucket_of(256) == 256 && bucket_of(257) == 256 && bucket_of(511) == 383 &&
              bucket_of(512) == 384 && bucket_of(UINT64_MAX) < 57 * 256);
static_assert(middle_of(bucket_of(1000)) == 1002 && middle_of(bucket_of(4096)) == 4112);

} // namespace

void Latencies::add(std::uint64_t nanoseconds) noexcept {
  ++buckets_[bucket_of(nanoseconds)];
  ++count_;
  min_ = std::min(min_, nanoseconds);
  max_ = std::max(max_, nanoseconds);
}

std::uint64_t Latencies::percentile(double percent) const noexcept {
  const auto rank = static_cast<std::uint64_t>(static_cast<double>(count_) * percent / 100);
  std::uint64_t seen = 0;
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    seen += buckets_[bucket];
    if (seen > rank) return std::clamp(middle_of(bucket), min_, max_);
  }
  return max_;
}

Result<std::unique_ptr<Measured>> run_bench(Driver& driver, const Workload& workload) {
  TRY(check(driver, workload));
  TRY(driver.make_buffers(static_cast<unsigned>(workload.depth), workload.bytes));
  const std::size_t blocks = workload.bytes / driver.identity().block_size;
  std::mt19937_64 random(std::random_device{}());
  std::uniform_int_distribution<std::uint64_t> place(0, driver.identity().blocks / blocks - 1);
  const auto submit = [&driver, &workload, &random, &place, blocks](unsigned buffer) {
    return driver.submit(workload.write ? io_write : io_read, place(random) * blocks, blocks, buffer);
  };
  const std::uint64_t commands = workload.commands.value_or(UINT64_MAX);
  const std::chrono::seconds time{workload.seconds.value_or(workload.commands ? 1'000'000'000 : default_seconds)};

  auto measured = std::make_unique<Measured>();
  std::vector<Clock::time_point> began(workload.depth, Clock::now());
  const auto start = began[0];
  std::uint64_t submitted = 0;
  for (unsigned buffer = 0; buffer < workload.depth && submitted < commands; ++buffer, ++submitted) TRY(submit(buffer));
  auto now = start;
  while (measured->latencies.count() < submitted) {
    const unsigned buffer = TRY(driver.wait());
    now = Clock::now();
    measured->latencies.add(static_cast<std::uint64_t>((now - began[buffer]).count()));
    if (submitted >= commands || now - start >= time) continue;
    began[buffer] = now;
    TRY(submit(buffer));
    ++submitted;
  }
  measured->seconds = std::chrono::duration<double>(now - start).count();
  return measured;
}

} // namespace nvme
