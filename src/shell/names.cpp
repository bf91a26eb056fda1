#include "names.hpp"

#include "result.hpp"
#include "text.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <netdb.h>
#include <thread>

namespace smartio {

namespace asio = boost::asio;
using asio::ip::tcp;
using Endpoints = Names::Endpoints;

namespace {

constexpr unsigned most_threads = 8;

struct Query {
  std::string host, port;
  Names::Found found;
  asio::steady_timer timer;
};

/// Blocks for as long as the system's resolver does.
Result<Endpoints> look_up(const std::string& host, const std::string& port) {
  ::addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  ::addrinfo* list = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &list); error != 0)
    return fail(Errc::peer_down, "{}", ::gai_strerror(error));
  Endpoints endpoints;
  for (const auto* entry = list; entry != nullptr; entry = entry->ai_next) {
    tcp::endpoint endpoint;
    if (entry->ai_addrlen > endpoint.capacity()) continue;
    std::memcpy(endpoint.data(), entry->ai_addr, entry->ai_addrlen);
    endpoint.resize(entry->ai_addrlen);
    endpoints.push_back(endpoint);
  }
  ::freeaddrinfo(list);
  return endpoints;
}

} // namespace

/// Threads keep it alive, and touch nothing of it but what the mutex guards.
struct Names::State : std::enable_shared_from_this<State> {
  explicit State(asio::io_context& io) : loop(&io) {}

  void start_next();
  void answer(std::uint64_t id, Result<Endpoints> endpoints);
  static void run(const std::shared_ptr<State>& self, std::uint64_t id, const std::string& host,
                  const std::string& port);

  std::mutex mutex;
  asio::io_context* loop; ///< guarded; null once nobody wants to know any more
  // The rest is the event loop's.
  std::map<std::uint64_t, Query> queries;
  std::deque<std::uint64_t> waiting; ///< for a thread
  std::uint64_t next = 1;
  unsigned threads = 0;
};

void Names::State::start_next() {
  while (threads < most_threads && !waiting.empty()) {
    const auto id = waiting.front();
    waiting.pop_front();
    const auto query = queries.find(id);
    if (query == queries.end()) continue; // too late
    ++threads;
    std::thread(run, shared_from_this(), id, query->second.host, query->second.port).detach();
  }
}

void Names::State::run(const std::shared_ptr<State>& self, std::uint64_t id, const std::string& host,
                       const std::string& port) {
  auto endpoints = look_up(host, port);
  const std::lock_guard lock(self->mutex);
  if (self->loop == nullptr) return;
  asio::post(*self->loop, [self, id, endpoints = std::move(endpoints)]() mutable {
    --self->threads;
    self->answer(id, std::move(endpoints));
    self->start_next();
  });
}

void Names::State::answer(std::uint64_t id, Result<Endpoints> endpoints) {
  if (auto query = queries.extract(id); !query.empty()) query.mapped().found(std::move(endpoints));
}

Names::Names(asio::io_context& io) : state_(std::make_shared<State>(io)) {}

Names::~Names() {
  const std::lock_guard lock(state_->mutex);
  state_->loop = nullptr;
  state_->queries.clear();
}

void Names::find(const std::string& host, const std::string& port, Found found) {
  const auto& state = state_;
  boost::system::error_code error;
  const auto address = asio::ip::make_address(host, error);
  const auto number = parse_number(port, 10, 65535);
  if (!error && number)
    return asio::post(*state->loop, [weak = std::weak_ptr(state), found = std::move(found),
                                     endpoint = tcp::endpoint(address, static_cast<std::uint16_t>(*number))] {
      if (const auto self = weak.lock()) found(Endpoints{endpoint});
    });
  const auto id = state->next++;
  auto& query = state->queries.try_emplace(id, Query{host, port, std::move(found), asio::steady_timer(*state->loop)})
                    .first->second;
  query.timer.expires_after(patience);
  query.timer.async_wait([weak = std::weak_ptr(state), id](boost::system::error_code cancelled) {
    const auto self = weak.lock();
    if (!cancelled && self) self->answer(id, fail(Errc::timed_out, "the name was not found in time"));
  });
  state->waiting.push_back(id);
  state->start_next();
}

} // namespace smartio
