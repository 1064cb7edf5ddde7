#include "tests/transport/ucx_device_memory.h"

#include <ucp/api/ucp.h>

#include <memory>
#include <stdexcept>

namespace causeway::test {

bool ucx_takes_device_memory() {
  const auto check = [](ucs_status_t status) {
    if (status != UCS_OK)
      throw std::runtime_error(std::string("UCX does not start: ") + ucs_status_string(status));
  };
  ucp_config_t* config = nullptr;
  check(ucp_config_read(nullptr, nullptr, &config));
  const std::unique_ptr<ucp_config_t, decltype(&ucp_config_release)> owner(config,
                                                                           ucp_config_release);
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM;
  ucp_context_h context = nullptr;
  check(ucp_init(&params, config, &context));
  ucp_context_attr_t abilities{};
  abilities.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  const auto status = ucp_context_query(context, &abilities);
  ucp_cleanup(context);
  check(status);
  return (abilities.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA)) != 0;
}

std::string ucx_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucp_get_version(&major, &minor, &release);
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release);
}

}  // namespace causeway::test
