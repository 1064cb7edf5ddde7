#include "runtime/topology/import/gpu_lines.h"

#include "runtime/topology/import/text.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxTitle = 128;
constexpr std::uint32_t kMaxLinks = 64;

// Takes "PREFIX N SEPARATOR" off the front of `line`.
std::optional<std::uint32_t> take_number(std::string_view& line, std::string_view prefix,
                                         char separator) {
  auto rest = trim(line);
  if (!rest.starts_with(prefix)) return std::nullopt;
  rest = trim(rest.substr(prefix.size()));
  const auto end = rest.find(separator);
  if (end == std::string_view::npos) return std::nullopt;
  const auto number = parse_u32(rest.substr(0, end));
  line = rest.substr(end + 1);
  return number && *number < kMaxMachineDevices ? number : std::nullopt;
}

// The text behind `key` up to the next comma.
std::string_view value_of(std::string_view line, std::string_view key) {
  const auto at = line.find(key);
  if (at == std::string_view::npos) return {};
  const auto rest = line.substr(at + key.size());
  return trim(rest.substr(0, rest.find(',')));
}

// The last "(...)" of `text` that `parse` understands is the address; what is before it the title.
std::optional<PciAddress> parse_bracketed(std::string_view inside) {
  if (inside.starts_with("PCI:")) inside.remove_prefix(4);
  if (const auto full = PciAddress::parse(inside)) return full;
  return PciAddress::parse(std::string(inside.substr(0, 32)) + ".0");  // Without a function.
}

}  // namespace

std::optional<GpuLine> parse_smi_gpu_line(std::string_view line) {
  const auto number = take_number(line, "GPU ", ':');
  if (!number) return std::nullopt;
  const auto uuid = line.rfind("(UUID:");
  const auto end = uuid == std::string_view::npos ? uuid : line.find(')', uuid);
  if (end == std::string_view::npos) return std::nullopt;
  GpuLine gpu;
  gpu.number = *number;
  gpu.title = plain_text(trim(line.substr(0, uuid)), kMaxTitle);
  gpu.uuid = plain_text(trim(line.substr(uuid + 6, end - uuid - 6)), kMaxTitle);
  return gpu;
}

std::optional<GpuLine> parse_nvbandwidth_gpu_line(std::string_view line) {
  auto rest = line;
  auto number = take_number(rest, "Device ", ':');
  if (!number) {
    rest = line;
    number = take_number(rest, "", ':');
  }
  if (!number) return std::nullopt;
  GpuLine gpu;
  gpu.number = *number;
  rest = trim(rest);
  for (auto open = rest.find('('); open != std::string_view::npos;
       open = rest.find('(', open + 1)) {
    const auto close = rest.find(')', open);
    if (close == std::string_view::npos) break;
    gpu.pci = parse_bracketed(rest.substr(open + 1, close - open - 1));
    if (!gpu.pci) continue;
    rest = trim(rest.substr(0, open));
    break;
  }
  gpu.title = plain_text(rest, kMaxTitle);
  return gpu.title.empty() ? std::nullopt : std::optional(gpu);
}

std::optional<GpuLine> parse_p2p_test_gpu_line(std::string_view line) {
  const auto number = take_number(line, "Device:", ',');
  const auto bus_at = line.find("pciBusID:");
  if (!number || bus_at == std::string_view::npos) return std::nullopt;
  GpuLine gpu;
  gpu.number = *number;
  auto title = trim(line.substr(0, bus_at));
  if (title.ends_with(',')) title.remove_suffix(1);
  gpu.title = plain_text(trim(title), kMaxTitle);
  const auto bus = parse_u32(value_of(line, "pciBusID:"), 16);
  const auto device = parse_u32(value_of(line, "pciDeviceID:"), 16);
  const auto domain = parse_u32(value_of(line, "pciDomainID:"), 16);
  if (bus && device && domain && *bus <= 0xff && *device <= 0x1f)
    gpu.pci =
        PciAddress{*domain, static_cast<std::uint8_t>(*bus), static_cast<std::uint8_t>(*device), 0};
  return gpu;
}

std::optional<SmiLinkLine> parse_smi_link_line(std::string_view line) {
  const auto number = take_number(line, "Link ", ':');
  if (!number || *number >= kMaxLinks) return std::nullopt;
  const auto tokens = split_tokens(line, 4);
  if (tokens.empty()) return std::nullopt;
  SmiLinkLine link;
  link.number = *number;
  if (tokens[0].find("nactive") != std::string_view::npos) return link;
  const auto rate = parse_number(tokens[0]);
  if (!rate || tokens.size() < 2 || tokens[1] != "GB/s") return std::nullopt;
  if (*rate > 0) link.gb_per_s = rate;
  return link;
}

}  // namespace causeway
