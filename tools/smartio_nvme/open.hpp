// Finding the device a command names.
#pragma once

#include <smartio/smartio.hpp>
#include <string>

/// "vfio-user:PATH" is opened straight; an id is borrowed, for this program, from the node whose daemon runs in
/// `run_dir`.
smartio::Result<smartio::Device> open_named(const std::string& device, const std::string& run_dir);
