// Lines over two logarithmic axes, as an SVG that is readable on light and dark pages.
//
// Shape:   self-contained: no script, no font, no style sheet of others; the colours follow the
//          viewer's scheme.
// Units:   none; labels are the caller's.
// Errors:  none. Points that have no logarithm (0, negative, not finite) are left out.
// Threads: a free function.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace causeway::tools {

struct PlotLine {
  std::string name;
  std::vector<std::pair<double, double>> points;
  bool is_limit = false;  // Dashed: what the machine could do.
};

struct Plot {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::function<std::string(double)> x_tick;  // The text at a value of the axis.
  std::vector<PlotLine> lines;
};

[[nodiscard]] std::string to_svg(const Plot& plot);

}  // namespace causeway::tools
