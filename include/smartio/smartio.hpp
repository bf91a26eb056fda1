// The whole public interface.
#pragma once

#include <smartio/bus_errors.hpp>
#include <smartio/device.hpp>
#include <smartio/error.hpp>
#include <smartio/memory.hpp>
#include <smartio/node.hpp>
#include <smartio/types.hpp>
