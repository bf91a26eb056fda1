// Peer connections: listening, dialling, frames to messages.
#pragma once

#include "accepting.hpp"
#include "context.hpp"
#include "frame_stream.hpp"
#include "names.hpp"

#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <map>
#include <memory>

namespace smartio {

class Links {
public:
  /// What a peer asks of devices; hostile.
  using DeviceFrame = std::function<void(core::LinkId, const std::string& payload)>;
  Links(Context& context, DeviceFrame device_frame);

  Result<void> listen(); ///< where the configuration says, if it does
  void start();          ///< accepts from now on

  void perform(const core::Dial& effect);
  void perform(core::Send& effect);
  void perform(const core::Drop& effect);
  void send(core::LinkId link, std::string_view frame); ///< an encoded one; to nobody once the link has ended

  void stop_listening();
  void close_all();

private:
  void accept(boost::asio::ip::tcp::socket socket);
  core::LinkId add(FrameStream::Socket socket);
  void start(core::LinkId link);
  void received(core::LinkId link, const core::Frame& frame);
  void connect_next(NodeId node, std::shared_ptr<Names::Endpoints> endpoints, std::string why);

  Context& context_;
  DeviceFrame device_frame_;
  boost::asio::ip::tcp::acceptor acceptor_;
  Accepting<boost::asio::ip::tcp::acceptor> accepting_;
  Names names_;
  const std::size_t most_;
  std::map<core::LinkId, std::shared_ptr<FrameStream>> links_;
  core::Message last_sent_{};
  std::string last_frame_{}; ///< it encoded; empty: none yet
  core::LinkId next_ = core::first_link;
};

} // namespace smartio
