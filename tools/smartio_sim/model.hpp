// What main needs to know of a device model.
#pragma once

#include <smartio/error.hpp>
#include <span>
#include <string>
#include <vector>

namespace smartio::sim {

/// A model: `smartio_sim NAME OPTIONS...`.
struct Model {
  const char* name;
  const char* summary;
  std::string (*help)();
  /// Serves the device until SIGTERM or SIGINT. Errc::bad_request is a usage error.
  Result<void> (*run)(const std::vector<std::string>& arguments);
};

extern const Model ntb_model, nvme_model;

} // namespace smartio::sim
