// Goal:   nvml_abi.h declares the driver's library as it is.
// Method: layouts and numbers against the vendor's header, where the build finds one (CMake:
//         NVML_INCLUDE_DIR); else the test says that it skipped.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "runtime/topology/discovery/nvml_abi.h"

#if __has_include(<nvml.h>)
#include <nvml.h>

#include <cstddef>
#include <type_traits>

namespace own = causeway::nvml;

template <typename Own, typename Theirs>
constexpr bool same_layout = sizeof(Own) == sizeof(Theirs) && alignof(Own) == alignof(Theirs);

static_assert(same_layout<own::PciInfo, nvmlPciInfo_t>);
static_assert(offsetof(own::PciInfo, bus_id) == offsetof(nvmlPciInfo_t, busId));
static_assert(same_layout<own::Memory, nvmlMemory_t>);
static_assert(offsetof(own::Memory, total) == offsetof(nvmlMemory_t, total));
static_assert(same_layout<own::Bar1Memory, nvmlBAR1Memory_t>);
static_assert(offsetof(own::Bar1Memory, total) == offsetof(nvmlBAR1Memory_t, bar1Total));
static_assert(same_layout<own::FabricInfo, nvmlGpuFabricInfo_t>);
static_assert(offsetof(own::FabricInfo, cluster_uuid) ==
              offsetof(nvmlGpuFabricInfo_t, clusterUuid));
static_assert(offsetof(own::FabricInfo, status) == offsetof(nvmlGpuFabricInfo_t, status));
static_assert(offsetof(own::FabricInfo, state) == offsetof(nvmlGpuFabricInfo_t, state));
static_assert(same_layout<own::FabricInfoV2, nvmlGpuFabricInfo_v2_t>);
static_assert(offsetof(own::FabricInfoV2, cluster_uuid) ==
              offsetof(nvmlGpuFabricInfo_v2_t, clusterUuid));
static_assert(offsetof(own::FabricInfoV2, status) == offsetof(nvmlGpuFabricInfo_v2_t, status));
static_assert(offsetof(own::FabricInfoV2, state) == offsetof(nvmlGpuFabricInfo_v2_t, state));
static_assert(own::kFabricInfoV2 == nvmlGpuFabricInfo_v2);
static_assert(own::kMaxLinks == NVML_NVLINK_MAX_LINKS);

// Functions that take an enumeration take an int here, and a device is a pointer.
static_assert(sizeof(own::Device) == sizeof(nvmlDevice_t));
static_assert(sizeof(nvmlReturn_t) == sizeof(own::Return));
static_assert(sizeof(nvmlEnableState_t) == sizeof(int));
static_assert(sizeof(nvmlIntNvLinkDeviceType_t) == sizeof(int));
static_assert(sizeof(nvmlGpuP2PStatus_t) == sizeof(int));
static_assert(sizeof(nvmlGpuP2PCapsIndex_t) == sizeof(int));

static_assert(own::kSuccess == NVML_SUCCESS);
static_assert(own::kNotSupported == NVML_ERROR_NOT_SUPPORTED);
static_assert(own::kNoPermission == NVML_ERROR_NO_PERMISSION);
static_assert(own::kDriverNotLoaded == NVML_ERROR_DRIVER_NOT_LOADED);
static_assert(own::kTimeout == NVML_ERROR_TIMEOUT);
static_assert(own::kGpuIsLost == NVML_ERROR_GPU_IS_LOST);
static_assert(own::kResetRequired == NVML_ERROR_RESET_REQUIRED);
static_assert(own::kBlocked == NVML_ERROR_OPERATING_SYSTEM);
static_assert(own::kVersionMismatch == NVML_ERROR_LIB_RM_VERSION_MISMATCH);
static_assert(own::kEnabled == NVML_FEATURE_ENABLED);
static_assert(own::kRemoteGpu == NVML_NVLINK_DEVICE_TYPE_GPU);
static_assert(own::kRemoteCpu == NVML_NVLINK_DEVICE_TYPE_IBMNPU);
static_assert(own::kRemoteSwitch == NVML_NVLINK_DEVICE_TYPE_SWITCH);
static_assert(own::kPeerRead == NVML_P2P_CAPS_INDEX_READ);
static_assert(own::kPeerWrite == NVML_P2P_CAPS_INDEX_WRITE);
static_assert(own::kFabricNotSupported == NVML_GPU_FABRIC_STATE_NOT_SUPPORTED);
static_assert(own::kFabricNotStarted == NVML_GPU_FABRIC_STATE_NOT_STARTED);
static_assert(own::kFabricInProgress == NVML_GPU_FABRIC_STATE_IN_PROGRESS);
static_assert(own::kFabricCompleted == NVML_GPU_FABRIC_STATE_COMPLETED);

TEST_CASE("nvml_abi.h is the vendor's interface") { CHECK(NVML_API_VERSION >= 12); }
#else
TEST_CASE("nvml_abi.h is the vendor's interface") {
  MESSAGE("SKIPPED: the build found no nvml.h (give NVML_INCLUDE_DIR)");
  CHECK(causeway::nvml::kMaxLinks > 0);
}
#endif
