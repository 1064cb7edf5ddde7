// The checks of the doctor, one function each; doctor.cpp has their table.
//
// Shape:   a check reads the examination and reports; it never fires on what is not known.
// Threads: pure functions.
#pragma once

#include "runtime/topology/doctor/examination.h"
#include "runtime/topology/doctor/report.h"

namespace causeway::doctor {

void check_peer_access(const Examination& machine, Report& report);     // W01
void check_peer_copies(const Examination& machine, Report& report);     // W02
void check_pcie_width(const Examination& machine, Report& report);      // W03
void check_pcie_bandwidth(const Examination& machine, Report& report);  // W04
void check_chipset_slot(const Examination& machine, Report& report);    // W05
void check_acs(const Examination& machine, Report& report);             // W06
void check_iommu(const Examination& machine, Report& report);           // W07
void check_bar1(const Examination& machine, Report& report);            // W08
void check_nvlinks(const Examination& machine, Report& report);         // W09
void check_fabric(const Examination& machine, Report& report);          // W10
void check_numa(const Examination& machine, Report& report);            // W11
void check_cpu_affinity(const Examination& machine, Report& report);    // W12
void check_gpu_direct(const Examination& machine, Report& report);      // W13
void check_nic_ports(const Examination& machine, Report& report);       // W14
void check_view(const Examination& machine, Report& report);            // W15
void check_sources(const Examination& machine, Report& report);         // W16
void check_like_nodes(const Examination& machine, Report& report);      // W17

}  // namespace causeway::doctor
