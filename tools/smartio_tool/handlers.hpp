// What each command does: make the request of the words given, send it, print the result.
#pragma once

#include <smartio/error.hpp>

namespace smartio::tool {

class Session;

Result<void> connect_node(Session&);
Result<void> disconnect_node(Session&);
Result<void> on_device(Session&); ///< the commands that take a device and print nothing
Result<void> make_available(Session&);
Result<void> on_filter(Session&); ///< the commands that take a filter
Result<void> filters(Session&);
Result<void> lspci(Session&);
Result<void> list(Session&);
Result<void> show(Session&);
Result<void> borrow(Session&);
Result<void> run(Session&); ///< its exit code is the session's
Result<void> status(Session&);
Result<void> monitor(Session&);
Result<void> config(Session&);
Result<void> scan(Session&);

} // namespace smartio::tool
