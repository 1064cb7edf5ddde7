#include "tools/base/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace causeway::tools {

namespace {

constexpr double kWidth = 760, kHeight = 440;
constexpr double kLeft = 70, kRight = 200, kTop = 44, kBottom = 56;
constexpr std::size_t kColours = 6;
constexpr std::size_t kMostTicks = 10;

// The colours keep their distance for readers who tell few apart, on white and on black.
constexpr const char* kStyle = R"(<style>
  :root { color-scheme: light dark; }
  .page { fill: #ffffff; } .ink { fill: #1f2328; } .grid { stroke: #d8dee4; }
  .axis { stroke: #57606a; fill: none; } .line { fill: none; stroke-width: 2; }
  .limit { stroke-dasharray: 6 4; }
  text { font: 12px system-ui, sans-serif; }
  .c0 { stroke: #0969da; } .c1 { stroke: #bc4c00; } .c2 { stroke: #1a7f37; }
  .c3 { stroke: #8250df; } .c4 { stroke: #9a6700; } .c5 { stroke: #57606a; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; } .ink { fill: #e6edf3; } .grid { stroke: #30363d; }
    .axis { stroke: #8d96a0; }
    .c0 { stroke: #58a6ff; } .c1 { stroke: #ffa657; } .c2 { stroke: #56d364; }
    .c3 { stroke: #d2a8ff; } .c4 { stroke: #e3b341; } .c5 { stroke: #8d96a0; }
  }
</style>
)";

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      default:
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  return result;
}

bool has_logarithm(const std::pair<double, double>& point) {
  return std::isfinite(point.first) && std::isfinite(point.second) && point.first > 0 &&
         point.second > 0;
}

// One axis: values to places.
struct Axis {
  double low = 0, high = 1;      // Logarithms.
  double begin = 0, length = 1;  // On the page.
  [[nodiscard]] double place(double value) const {
    return begin + length * (std::log10(value) - low) / (high - low);
  }
};

Axis spanning(double least, double most, double begin, double length) {
  Axis axis{std::log10(least), std::log10(most), begin, length};
  if (axis.high - axis.low < 1e-6) axis.low -= 0.3, axis.high += 0.3;
  return axis;
}

// 1, 2 and 5 of each power of ten between; only the powers where those are many.
std::vector<double> decimal_ticks(const Axis& axis) {
  std::vector<double> ticks;
  const bool is_wide = axis.high - axis.low > 3;
  for (auto power = std::floor(axis.low); power <= axis.high; ++power)
    for (const double step : {1.0, 2.0, 5.0}) {
      const double value = step * std::pow(10, power);
      const double at = std::log10(value);
      if ((step == 1.0 || !is_wide) && at >= axis.low - 1e-9 && at <= axis.high + 1e-9)
        ticks.push_back(value);
    }
  return ticks;
}

// The values that were measured; every other one where they are too many.
std::vector<double> measured_ticks(const Plot& plot) {
  std::set<double> values;
  for (const auto& line : plot.lines)
    for (const auto& point : line.points)
      if (has_logarithm(point)) values.insert(point.first);
  const auto step = (values.size() + kMostTicks - 1) / kMostTicks;
  std::vector<double> ticks;
  std::size_t i = 0;
  for (const double value : values)
    if (i++ % step == 0) ticks.push_back(value);
  return ticks;
}

std::string text_at(double x, double y, const char* anchor, const std::string& text,
                    const char* more = "") {
  return fmt::format(R"(<text class="ink" x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>)"
                     "\n",
                     x, y, anchor, more, escaped(text));
}

std::string grid(const Plot& plot, const Axis& x, const Axis& y) {
  std::string svg;
  const double bottom = kHeight - kBottom, right = kWidth - kRight;
  for (const double value : measured_ticks(plot)) {
    svg += fmt::format(R"(<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>)"
                       "\n",
                       x.place(value), kTop, bottom);
    svg += text_at(x.place(value), bottom + 18, "middle",
                   plot.x_tick ? plot.x_tick(value) : fmt::format("{:g}", value));
  }
  for (const double value : decimal_ticks(y)) {
    svg += fmt::format(R"(<line class="grid" x1="{1}" x2="{2}" y1="{0:.1f}" y2="{0:.1f}"/>)"
                       "\n",
                       y.place(value), kLeft, right);
    svg += text_at(kLeft - 8, y.place(value) + 4, "end", fmt::format("{:g}", value));
  }
  svg += fmt::format(R"(<path class="axis" d="M{0} {1}V{2}H{3}"/>)"
                     "\n",
                     kLeft, kTop, bottom, right);
  svg += text_at((kLeft + right) / 2, kHeight - 14, "middle", plot.x_label);
  svg += text_at(kLeft, kTop - 10, "middle", plot.y_label);
  return svg;
}

std::string drawn(const PlotLine& line, std::size_t number, const Axis& x, const Axis& y) {
  const auto colour = fmt::format("line c{}", number % kColours);
  const auto classes = colour + (line.is_limit ? " limit" : "");
  std::string path, dots;
  for (const auto& point : line.points) {
    if (!has_logarithm(point)) continue;
    const auto at = fmt::format("{:.1f} {:.1f}", x.place(point.first), y.place(point.second));
    path += (path.empty() ? "M" : "L") + at;
    dots += fmt::format(R"(<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>)"
                        "\n",
                        colour, x.place(point.first), y.place(point.second));
  }
  if (path.empty()) return "";
  const double top = kTop + 10 + 20 * static_cast<double>(number);
  const double left = kWidth - kRight + 16;
  return fmt::format(R"(<path class="{0}" d="{1}"/>
{2}<path class="{0}" d="M{3} {4}h24"/>
)",
                     classes, path, dots, left, top) +
         text_at(left + 32, top + 4, "start", line.name);
}

}  // namespace

std::string to_svg(const Plot& plot) {
  double x_least = 0, x_most = 0, y_least = 0, y_most = 0;
  bool is_empty = true;
  for (const auto& line : plot.lines)
    for (const auto& point : line.points) {
      if (!has_logarithm(point)) continue;
      const auto [x, y] = point;
      x_least = is_empty ? x : std::min(x_least, x), x_most = is_empty ? x : std::max(x_most, x);
      y_least = is_empty ? y : std::min(y_least, y), y_most = is_empty ? y : std::max(y_most, y);
      is_empty = false;
    }
  std::string svg = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img">
<title>{2}</title>
{3}<rect class="page" width="{0}" height="{1}"/>
)",
      kWidth, kHeight, escaped(plot.title), kStyle);
  svg += text_at(kLeft, 20, "start", plot.title, R"( style="font-size:15px;font-weight:600")");
  if (is_empty) return svg + text_at(kWidth / 2, kHeight / 2, "middle", "no figures") + "</svg>\n";
  const auto x = spanning(x_least, x_most, kLeft + 12, kWidth - kLeft - kRight - 24);
  // A tenth more on either side, so that no line lies on the frame; upwards on the page.
  const auto y =
      spanning(y_least / 1.1, y_most * 1.1, kHeight - kBottom, -(kHeight - kTop - kBottom));
  svg += grid(plot, x, y);
  for (std::size_t i = 0; i < plot.lines.size(); ++i) svg += drawn(plot.lines[i], i, x, y);
  return svg + "</svg>\n";
}

}  // namespace causeway::tools
