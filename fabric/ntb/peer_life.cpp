// How the two ends of a bridge find each other, and notice that the other is not there any more.
#include "completed.hpp"
#include "ntb/peer.hpp"
#include "page.hpp"
#include "result.hpp"

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <cstring>

namespace smartio::fabric::ntb {

namespace asio = boost::asio;
using std::chrono::steady_clock;

namespace {

constexpr std::uint32_t magic = 0x4f494d53; // "SMIO"
constexpr std::uint32_t version = 1;
constexpr unsigned words = 5; ///< of a hello

std::uint32_t check_of(std::uint32_t version_and_node, std::uint32_t epoch, std::uint32_t pages) {
  return ~(magic ^ version_and_node ^ std::rotl(epoch, 11) ^ std::rotl(pages, 22));
}

} // namespace

Peer::Hello Peer::own_hello() const {
  const auto node = version << 16 | static_cast<std::uint32_t>(options_.node);
  const auto pages = static_cast<std::uint32_t>(bytes_ / page_size);
  return {magic, node, epoch_, pages, check_of(node, epoch_, pages)};
}

/// Six times within the time after which silence is the end.
void Peer::tick() {
  if (closing_) return;
  ticked_ = true;
  if (!std::exchange(looking_, true)) asio::co_spawn(io_, look_again(shared_from_this()), asio::detached);
  timer_.expires_after(options_.silence / 6);
  timer_.async_wait([weak = weak_from_this()](boost::system::error_code error) {
    const auto self = weak.lock();
    if (!self || error) return;
    // Who stands still hears nobody: that is no silence of the peer's.
    const auto late = steady_clock::now() - self->timer_.expiry();
    if (late > self->options_.silence / 6) self->heard_ += late;
    self->tick();
  });
}

void Peer::look() {
  wanted_ = true;
  if (!std::exchange(looking_, true)) asio::co_spawn(io_, look_again(shared_from_this()), asio::detached);
}

asio::awaitable<void> Peer::look_again(std::shared_ptr<Peer> /*self*/) {
  while ((wanted_ || ticked_) && !closing_) {
    const bool wanted = std::exchange(wanted_, false), ticked = std::exchange(ticked_, false);
    Result<void> done; // named first: GCC 12 destroys what a co_await inside ?: gives twice
    if (wanted || !state_.up)
      done = co_await look_once(ticked);
    else
      done = co_await beat();
    if (!done && !closing_) set_down(to_string(done.error()));
  }
  looking_ = false;
}

/// All that a tick costs while all is well: no register is read, since a busy bridge may let a read wait for long.
asio::awaitable<Result<void>> Peer::beat() {
  if (!heard() && steady_clock::now() - heard_ > options_.silence) {
    set_down("it is silent");
    link_up_ = false; // it may have been down, too shortly to be seen
  }
  auto done = co_await sign();
  co_return done;
}

/// Whatever was missed because an interrupt got lost is found at a tick while the peer is down.
asio::awaitable<Result<void>> Peer::look_once(bool ticked) {
  auto done =
      co_await completed<Result<void>>([this](auto called) { adapter_->clear_doorbells(1, std::move(called)); });
  if (!done) co_return done;
  auto link = co_await completed<Result<Link>>([this](auto told) { adapter_->read_link(std::move(told)); });
  if (!link) co_return std::unexpected(std::move(link).error());
  const bool came_up = !std::exchange(link_up_, link->up) && link->up;
  if (came_up) { // its being down may have cost the bridge its registers, and what stands in the page is from before
    last_count_ = read_sign().count;
    done = co_await completed<Result<void>>([this](auto called) { adapter_->recover(std::move(called)); });
    if (!done) co_return done;
  }
  if (!link_up_) {
    peer_ = {};
    set_down("the bridge's link is down");
    co_return done;
  }
  auto hello = co_await read_hello();
  if (!hello) co_return std::unexpected(std::move(hello).error());
  const bool news = *hello != peer_, lost = news && state_.up;
  if (lost) set_down(hello->magic == 0 ? "it has left" : "it has started anew");
  peer_ = *hello;
  if (!lost && heard()) set_up(); // another life of it is found at the next look, so that everybody sees it down first
  if (came_up || (!state_.up && (ticked || news))) done = co_await greet(own_hello());
  if (done && peer_.magic != 0 && (ticked || news)) done = co_await sign();
  if (done && !state_.up && (ticked || news))
    done = co_await completed<Result<void>>([this](auto called) { adapter_->ring(0, std::move(called)); });
  co_return done;
}

/// What the peer left in the scratchpads; all 0 unless it is whole and makes sense.
asio::awaitable<Result<Peer::Hello>> Peer::read_hello() {
  std::array<std::uint32_t, words> word{};
  for (unsigned i = 0; i < words; ++i) {
    auto value = co_await completed<Result<std::uint32_t>>(
        [this, i](auto told) { adapter_->read_scratchpad(i, std::move(told)); });
    if (!value) co_return std::unexpected(std::move(value).error());
    word[i] = *value;
  }
  const Hello hello{word[0], word[1], word[2], word[3], word[4]};
  const bool whole = hello.magic == magic && hello.check == check_of(word[1], word[2], word[3]);
  const bool ours = whole && hello.version_and_node >> 16 == version && (hello.version_and_node & 0xffff) != 0;
  co_return ours ? hello : Hello{};
}

asio::awaitable<Result<void>> Peer::greet(Hello hello) {
  const std::array<std::uint32_t, words> word{hello.magic, hello.version_and_node, hello.epoch, hello.pages,
                                              hello.check};
  Result<void> done;
  for (unsigned i = 0; i < words && done; ++i)
    done = co_await completed<Result<void>>(
        [this, i, &word](auto called) { adapter_->write_peer_scratchpad(i, word[i], std::move(called)); });
  co_return done;
}

asio::awaitable<Result<void>> Peer::sign() {
  const Sign sign{epoch_, peer_.epoch, ++count_, 0};
  vfio::RegionWrite write{aperture_region, 0, std::vector<std::byte>(sizeof sign)};
  std::memcpy(write.data.data(), &sign, sizeof sign);
  auto reply = co_await completed<vfio::Reply>([this, &write](auto told) {
    device_->submit(std::move(write), [told = std::move(told)](vfio::Reply got) mutable { told(std::move(got)); });
  });
  if (!reply) co_return fail_errno(reply.error(), "write to the peer through the bridge");
  co_return Result<void>{};
}

/// What the peer has written into our control page.
Peer::Sign Peer::read_sign() const {
  Sign sign{};
  for (std::size_t i = 0; i < sizeof sign; i += 4) { // another host writes it meanwhile
    const auto* word = reinterpret_cast<const std::uint32_t*>(control_.bytes().data() + i);
    const auto value = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    std::memcpy(reinterpret_cast<std::byte*>(&sign) + i, &value, sizeof value);
  }
  return sign;
}

/// Whether the peer has counted on, knowing who we are.
bool Peer::heard() {
  const auto sign = read_sign();
  if (peer_.magic == 0 || sign.from != peer_.epoch || sign.to != epoch_ || sign.count == last_count_) return false;
  last_count_ = sign.count;
  heard_ = steady_clock::now();
  return true;
}

void Peer::set_up() {
  if (state_.up) return;
  const std::uint64_t theirs = std::uint64_t{peer_.pages} * page_size;
  state_ = {true, NodeId(peer_.version_and_node & 0xffff), std::min(theirs, aperture_.size), ""};
  tell();
}

void Peer::set_down(const std::string& reason) {
  state_.reason = reason;
  if (!std::exchange(state_.up, false)) return;
  tell();
}

void Peer::close(std::move_only_function<void()> done) {
  closing_ = true;
  timer_.cancel();
  for (auto& event : events_) event.cancel();
  asio::co_spawn(io_, leave(shared_from_this(), std::move(done)), asio::detached);
}

asio::awaitable<void> Peer::leave(std::shared_ptr<Peer> /*self*/, std::move_only_function<void()> done) {
  if (adapter_ && link_up_) {
    auto left = co_await greet({});
    if (left) left = co_await completed<Result<void>>([this](auto called) { adapter_->ring(0, std::move(called)); });
  }
  if (adapter_) {
    auto closed =
        co_await completed<Result<void>>([this](auto called) { adapter_->close_window(0, std::move(called)); });
    closed = co_await completed<Result<void>>([this](auto called) { adapter_->disable_link(std::move(called)); });
  }
  done();
}

} // namespace smartio::fabric::ntb
