// How long a frame may take, on a connection that is busy all the time.
#include "frame_stream.hpp"

#include "catch.hpp"

#include <atomic>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <thread>

using namespace smartio;
using namespace std::chrono_literals;

namespace {

struct Pair {
  boost::asio::io_context io;
  boost::asio::local::stream_protocol::socket near{io}, far{io};
  std::shared_ptr<FrameStream> stream;
  unsigned frames = 0;
  std::string why; ///< it closed

  explicit Pair(std::chrono::milliseconds patience = 200ms) {
    boost::asio::local::connect_pair(near, far);
    stream = std::make_shared<FrameStream>(FrameStream::Socket(std::move(near)), core::frame_limit, patience);
    stream->start([this](const core::Frame&) { ++frames; }, [this](const std::string& reason) { why = reason; });
  }
  void write(const std::string& bytes) { boost::asio::write(far, boost::asio::buffer(bytes)); }
  /// At most 20 s: a machine that stands still makes it patient.
  void run_until_closed() {
    for (int i = 0; i < 200 && why.empty(); ++i) run(100ms);
  }
  void run(std::chrono::milliseconds time) {
    io.restart();
    io.run_for(time);
  }
};

} // namespace

TEST_CASE("a connection on which one frame's end always comes with the next one's start stays") {
  Pair pair;
  const auto frame = core::encode_frame(core::FrameKind::json, "{}");
  const auto head = frame.substr(0, 3), tail = frame.substr(3);
  pair.write(head);
  for (unsigned i = 1; i <= 12; ++i) { // for three times the patience
    pair.run(50ms);
    pair.write(tail + head);
  }
  pair.run(20ms);
  CHECK(pair.frames == 12);
  CHECK(pair.why.empty());
}

TEST_CASE("a program that stood still does not hold that against whoever had sent everything") {
  Pair pair;
  const auto frame = core::encode_frame(core::FrameKind::json, std::string(100, ' '));
  pair.write(frame.substr(0, 20));
  pair.run(20ms);
  boost::asio::post(pair.io, [&pair, &frame] { // both come while nobody looks: the rest, and the end of patience
    pair.write(frame.substr(20));
    std::this_thread::sleep_for(500ms);
  });
  pair.run(10ms);
  pair.run(100ms);
  CHECK(pair.frames == 1);
  CHECK(pair.why.empty());
}

TEST_CASE("a frame that does not end in time ends the connection, however busily its bytes drip") {
  Pair pair;
  const auto frame = core::encode_frame(core::FrameKind::json, std::string(100, ' '));
  for (std::size_t i = 0; i < 40 && pair.why.empty(); ++i) {
    pair.write(frame.substr(i, 1));
    pair.run(20ms);
  }
  pair.run_until_closed();
  CHECK(pair.frames == 0);
  CHECK(pair.why == "a frame it began did not end in time");
}

TEST_CASE("whoever takes nothing of what was sent is cut off in time, whoever takes it slowly is not") {
  Pair pair;
  const auto frame = core::encode_frame(core::FrameKind::json, std::string(1 << 20, ' '));
  std::string taken(frame.size(), ' ');
  for (int i = 0; i < 3; ++i) { // for longer than one frame may take
    pair.stream->send(frame);
    pair.run(700ms);
    CHECK(pair.why.empty());
    std::atomic<bool> read = false;
    std::thread reader([&] {
      boost::asio::read(pair.far, boost::asio::buffer(taken));
      read = true;
    });
    while (!read) pair.run(10ms);
    reader.join();
  }
  pair.stream->send(frame);
  pair.run(1000ms);
  CHECK(pair.why.empty());
  pair.run_until_closed();
  CHECK(pair.why == "it does not read");
}

TEST_CASE("whoever takes nothing of very much is cut off at once") {
  Pair pair(1h);
  const auto frame = core::encode_frame(core::FrameKind::json, std::string(1 << 20, ' '));
  for (int i = 0; i < 31; ++i) pair.stream->send(frame);
  pair.run(20ms);
  CHECK(pair.why.empty());
  for (int i = 0; i < 2; ++i) pair.stream->send(frame);
  CHECK(pair.why.empty()); // never from within send
  pair.run(20ms);
  CHECK(pair.why == "it does not read");
}

TEST_CASE("what was sent before a connection is finished arrives before its end, and nothing that is sent after") {
  Pair pair;
  const auto frame = core::encode_frame(core::FrameKind::json, std::string(1 << 20, ' '));
  pair.stream->send(frame);
  pair.stream->finish(nullptr);
  pair.stream->send(frame);
  std::string taken;
  std::atomic<bool> ended = false;
  std::thread reader([&] {
    boost::system::error_code error;
    boost::asio::read(pair.far, boost::asio::dynamic_buffer(taken), error);
    ended = true;
  });
  while (!ended) pair.run(10ms);
  reader.join();
  CHECK(taken == frame);
  CHECK(pair.why.empty());
}
