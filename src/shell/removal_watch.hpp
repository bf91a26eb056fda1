// Whether somebody removes a file of ours: cleaners of temporary directories take sockets that look old.
#pragma once

#include "fd.hpp"
#include "result.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <memory>
#include <string>

namespace smartio {

class RemovalWatch {
public:
  /// `removed` is called from the event loop each time the file goes, or may have gone with its directory, of which
  /// nothing more is heard then; not once this is destroyed, which `removed` must not do. `io` must live as long.
  static Result<std::unique_ptr<RemovalWatch>> open(boost::asio::io_context& io, const std::string& path,
                                                    std::function<void()> removed);

private:
  RemovalWatch(boost::asio::io_context& io, std::string name, std::function<void()> removed)
      : events_(io), name_(std::move(name)), removed_(std::move(removed)) {}
  void wait();
  bool read_all(); ///< whether it was removed

  boost::asio::posix::stream_descriptor events_;
  std::string name_;
  std::function<void()> removed_;
};

} // namespace smartio
