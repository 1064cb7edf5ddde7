#include "runtime/topology/discovery/machine_view.h"

#include <fmt/format.h>

#include <array>
#include <optional>

#include "runtime/topology/discovery/sysfs_text.h"

namespace causeway {

namespace {

std::optional<std::string> container_evidence(const FileTree& files) {
  for (const char* mark : {"/.dockerenv", "/run/.containerenv"})
    if (files.exists(mark)) return fmt::format("{} is there", mark);
  // Engines bind a file of their own over these; nobody else does.
  const auto mounts = files.read("/proc/self/mountinfo", FileTree::kMaxFileBytes).value_or("");
  for (std::string_view rest = mounts; !rest.empty();) {
    auto line = take_line(rest);
    for (int skipped = 0; skipped < 4; ++skipped) (void)take_word(line);
    const auto point = take_word(line);
    if (point == "/etc/hosts" || point == "/etc/hostname")
      return fmt::format("{} is a mount of its own", point);
  }
  const auto groups = files.text("/proc/self/cgroup");
  for (const char* word : {"docker", "kubepods", "containerd", "libpod", "/lxc"})
    if (groups.find(word) != std::string::npos)
      return fmt::format("its control group is one of {}", word);
  return std::nullopt;
}

std::optional<std::string> vm_evidence(const FileTree& files, const Processor& processor) {
  if (processor.has_hypervisor) return "the processor says that a hypervisor runs it";
  const auto hypervisor = files.text("/sys/hypervisor/type");
  if (!hypervisor.empty()) return fmt::format("/sys/hypervisor/type is {}", hypervisor);
  const auto product = files.text("/sys/class/dmi/id/product_name");
  const auto vendor = files.text("/sys/class/dmi/id/sys_vendor");
  for (const char* word : {"QEMU", "KVM", "VMware", "Virtual Machine", "VirtualBox", "Xen", "Bochs",
                           "Google Compute Engine", "OpenStack", "Parallels"})
    if (product.find(word) != std::string::npos || vendor.find(word) != std::string::npos)
      return fmt::format("DMI calls the machine {} {}", vendor, product);
  return std::nullopt;
}

}  // namespace

ViewFacts read_view(const FileTree& files, const Processor& processor) {
  ViewFacts facts;
  const auto vm = vm_evidence(files, processor);
  const auto container = container_evidence(files);
  facts.is_virtual = vm.has_value();
  if (container) facts.evidence.push_back(*container);
  if (vm) facts.evidence.push_back(*vm);
  if (container)
    facts.view = MachineView::container;
  else if (vm)
    facts.view = MachineView::vm;
  else if (processor.arch == "x86_64" || !files.text("/sys/class/dmi/id/sys_vendor").empty())
    facts.view = MachineView::bare_metal;
  return facts;
}

}  // namespace causeway
