// The part of NVML's binary interface that discovery calls: own declarations of the layouts and
// numbers that libnvidia-ml.so.1 keeps stable.
//
// Source:  the NVML API reference. Where the vendor's header is at hand when the tests are built,
//          tests/runtime/topology/discovery_abi_test.cpp compares every layout with it.
// Threads: types.
#pragma once

#include <array>
#include <cstdint>

namespace causeway::nvml {

using Return = int;
constexpr Return kSuccess = 0;
constexpr Return kNotSupported = 3;
constexpr Return kNoPermission = 4;
constexpr Return kTimeout = 10;
constexpr Return kDriverNotLoaded = 9;
constexpr Return kGpuIsLost = 15;
constexpr Return kResetRequired = 16;
constexpr Return kBlocked = 17;
constexpr Return kVersionMismatch = 18;

using Device = struct DeviceTag*;

constexpr unsigned kMaxLinks = 36;  // Of one GPU.

struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain;
  unsigned bus;
  unsigned device;
  unsigned pci_device_id;
  unsigned pci_subsystem_id;
  char bus_id[32];  // "00000000:65:00.0"
};

struct Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

struct Bar1Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

struct FabricInfo {
  unsigned char cluster_uuid[16];
  Return status;  // Of the probe; says something once `state` is completed.
  unsigned clique_id;
  unsigned char state;
};

struct FabricInfoV2 {
  unsigned version;
  unsigned char cluster_uuid[16];
  Return status;
  unsigned clique_id;
  unsigned char state;
  unsigned health_mask;
};

struct C2cModeInfo {
  unsigned is_enabled;
};

// A structure's version carries its size.
constexpr unsigned kFabricInfoV2 = sizeof(FabricInfoV2) | 2U << 24;

constexpr unsigned char kFabricNotSupported = 0;
constexpr unsigned char kFabricNotStarted = 1;
constexpr unsigned char kFabricInProgress = 2;
constexpr unsigned char kFabricCompleted = 3;

// nvmlEnableState_t, nvmlIntNvLinkDeviceType_t, nvmlGpuP2PCapsIndex_t.
constexpr int kEnabled = 1;
constexpr int kRemoteGpu = 0x00;
constexpr int kRemoteCpu = 0x01;
constexpr int kRemoteSwitch = 0x02;
constexpr int kPeerRead = 0;
constexpr int kPeerWrite = 1;

using Init = Return();
using GetText = Return(char*, unsigned);  // Of the system.
using GetInt = Return(int*);              // Of the system.
using GetCount = Return(unsigned*);
using GetHandle = Return(unsigned, Device*);
using GetDeviceText = Return(Device, char*, unsigned);
using GetPci = Return(Device, PciInfo*);
using GetMemory = Return(Device, Memory*);
using GetBar1 = Return(Device, Bar1Memory*);
using GetUnsigned = Return(Device, unsigned*);
using GetCapability = Return(Device, int*, int*);
using GetLinkState = Return(Device, unsigned, int*);
using GetLinkPci = Return(Device, unsigned, PciInfo*);
using GetLinkType = Return(Device, unsigned, int*);
using GetPeerStatus = Return(Device, Device, int, int*);
using GetFabric = Return(Device, FabricInfo*);
using GetFabricV = Return(Device, FabricInfoV2*);
using GetC2c = Return(Device, C2cModeInfo*);

}  // namespace causeway::nvml
