// The whole public interface.
#pragma once

#include <smartio/version.hpp>

#if SMARTIO_HAS_LANGUAGE

#include <smartio/bus_errors.hpp>
#include <smartio/call.hpp>
#include <smartio/device.hpp>
#include <smartio/error.hpp>
#include <smartio/events.hpp>
#include <smartio/memory.hpp>
#include <smartio/node.hpp>
#include <smartio/types.hpp>

#endif
