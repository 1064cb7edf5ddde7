// A drawing in graphviz's language. CPUs stand above their devices, what joins GPUs and what joins
// nodes below them.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "causeway/topology_export.h"
#include "runtime/topology/export/drawing.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxTextLength = 40;
constexpr std::string_view kAlarm = "#C62828";
constexpr std::string_view kStaged = "#8A8A8A";

struct Style {
  std::string_view title;
  std::string_view fill;
  std::string_view line;
};

Style style_of(DrawnBox::Kind kind) {
  switch (kind) {
    case DrawnBox::Kind::gpu:
      return {"GPU", "#DDF0D3", "#4C8C3A"};
    case DrawnBox::Kind::host:
      return {"host memory", "#DCE8F8", "#4A6FA5"};
    case DrawnBox::Kind::cpu:
      return {"CPU", "#ECECEC", "#6B6B6B"};
    case DrawnBox::Kind::nic:
    case DrawnBox::Kind::port:
      return {"NIC", "#FCEBCB", "#B5781E"};
    case DrawnBox::Kind::nvswitch:
    case DrawnBox::Kind::mesh:
      return {"NVLink", "#C3E6B4", "#2E6B1F"};
    case DrawnBox::Kind::network_switch:
      return {"network switch", "#F8D9A0", "#8A5A10"};
    case DrawnBox::Kind::staged:
      return {"", "#FFFFFF", kStaged};
    case DrawnBox::Kind::node:
      return {"node", "#F7F7F7", "#6B6B6B"};
    case DrawnBox::Kind::bridge:
    case DrawnBox::Kind::other:
      break;
  }
  return {"", "#F7F7F7", "#9A9A9A"};
}

struct LineStyle {
  std::string_view title;
  std::string_view colour;
};

LineStyle style_of(LinkKind kind) {
  switch (kind) {
    case LinkKind::nvlink:
      return {"NVLink", "#4C9A35"};
    case LinkKind::xgmi:
      return {"xGMI", "#4C9A35"};
    case LinkKind::c2c:
      return {"C2C", "#2E6B1F"};
    case LinkKind::pcie:
      return {"PCIe", "#7A7A7A"};
    case LinkKind::memory:
      return {"memory", "#6D93CC"};
    case LinkKind::socket:
      return {"between CPUs", "#444444"};
    case LinkKind::network:
      return {"network", "#D0902B"};
  }
  return {};
}

// 1 GB/s is one point wide, ten times as much 1.6 more.
double pen_width(std::optional<double> bytes_per_s) {
  if (!bytes_per_s || *bytes_per_s <= 0) return 1;
  return std::clamp(1 + 1.6 * std::log10(*bytes_per_s / 1e9), 0.7, 6.0);
}

// For graphviz's HTML labels: every line of hostile text is only text.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : printable(text, kMaxTextLength)) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result.empty() ? " " : result;
}

std::string label_of(const DrawnBox& box) {
  auto label = fmt::format("<B>{}</B>", escaped(box.name));
  for (const auto& line : box.details)
    label += fmt::format("<BR/><FONT POINT-SIZE=\"9\">{}</FONT>", escaped(line));
  return label;
}

std::string box_text(const DrawnBox& box, std::size_t index) {
  const auto style = style_of(box.kind);
  const bool is_hub = box.kind == DrawnBox::Kind::mesh || box.kind == DrawnBox::Kind::staged;
  return fmt::format("b{} [label=<{}>, fillcolor=\"{}\", color=\"{}\"{}{}];\n", index,
                     label_of(box), style.fill, box.is_alarming ? kAlarm : style.line,
                     is_hub ? ", style=\"rounded,filled,dashed\"" : "",
                     box.is_alarming ? ", penwidth=2" : "");
}

std::string line_text(const DrawnLine& line) {
  const bool alarming = line.state == LinkState::down || line.state == LinkState::degraded;
  auto label = line.label;
  if (alarming) label += (label.empty() ? "" : "\n") + std::string(to_string(line.state));
  std::string html;
  for (std::size_t at = 0; at <= label.size() && !label.empty();) {
    const auto end = std::min(label.find('\n', at), label.size());
    // The spaces keep the text off its line.
    html +=
        (html.empty() ? "  " : "<BR/>  ") + escaped(std::string_view(label).substr(at, end - at));
    at = end + 1;
  }
  const auto colour = alarming ? kAlarm : line.is_dashed ? kStaged : style_of(line.kind).colour;
  auto text = fmt::format("  b{} -> b{} [color=\"{}\", penwidth={:.1f}", line.upper, line.lower,
                          colour, pen_width(line.bytes_per_s));
  if (!html.empty()) text += fmt::format(", label=<{}>", html);
  if (alarming) text += fmt::format(", fontcolor=\"{}\"", kAlarm);
  if (line.is_dashed) text += ", style=dashed";
  if (line.state == LinkState::down) text += ", style=dotted";
  if (line.is_level) text += ", constraint=false";
  return text + "];\n";
}

// A bar of a legend: a line as it is drawn.
std::string legend_bar(std::string_view colour, double width, bool is_dashed = false) {
  const auto cell = [&](int length) {
    return fmt::format("<TD FIXEDSIZE=\"TRUE\" WIDTH=\"{}\" HEIGHT=\"{:.0f}\" BGCOLOR=\"{}\"></TD>",
                       length, width, colour);
  };
  const auto bar = is_dashed ? cell(6) + cell(6) + cell(6) : cell(26);
  return fmt::format(
      "<TD><TABLE BORDER=\"0\" CELLBORDER=\"0\" CELLPADDING=\"0\" CELLSPACING=\"{}\"><TR>{}</TR>"
      "</TABLE></TD>",
      is_dashed ? 3 : 0, bar);
}

// The title, and what the lines that are there mean.
std::string heading(const Drawing& drawing) {
  std::map<LinkKind, bool> kinds;
  bool dashed = false;
  bool alarming = false;
  for (const auto& line : drawing.lines) {
    if (line.is_dashed)
      dashed = true;
    else
      kinds[line.kind] = true;
    alarming = alarming || line.state == LinkState::down || line.state == LinkState::degraded;
  }
  std::string cells;
  const auto add = [&](const std::string& bar, std::string_view text) {
    cells += fmt::format("{}<TD ALIGN=\"LEFT\">{}  </TD>", bar, text);
  };
  for (const auto& [kind, there] : kinds)
    add(legend_bar(style_of(kind).colour, 4), style_of(kind).title);
  if (dashed) add(legend_bar(kStaged, 3, true), "through host memory");
  if (alarming) add(legend_bar(kAlarm, 4), "degraded or down");
  if (!cells.empty())
    for (const double rate : {1e9, 30e9, 1000e9})
      add(legend_bar("#333333", std::ceil(pen_width(rate))), rate_text(LinkKind::pcie, rate));
  std::string rows;
  if (!drawing.title.empty())
    rows += fmt::format("<TR><TD ALIGN=\"LEFT\"><FONT POINT-SIZE=\"16\"><B>{}</B></FONT></TD></TR>",
                        escaped(drawing.title));
  if (!cells.empty())
    rows += "<TR><TD ALIGN=\"LEFT\"><TABLE BORDER=\"0\" CELLBORDER=\"0\" CELLPADDING=\"1\"><TR>" +
            cells + "</TR></TABLE></TD></TR>";
  if (rows.empty()) return "";
  return "  label=<<TABLE BORDER=\"0\" CELLBORDER=\"0\" CELLSPACING=\"4\">" + rows +
         "</TABLE>>;\n  labelloc=t;\n  labeljust=l;\n";
}

// These boxes stand on one level, from left to right if `in_order`.
std::string level_text(const std::vector<std::size_t>& boxes, bool in_order) {
  if (boxes.size() < 2) return "";
  std::string text = "    {rank=same;";
  for (std::size_t i = 0; i < boxes.size(); ++i)
    text += fmt::format("{} b{}", i == 0 ? "" : in_order ? " ->" : ";", boxes[i]);
  return text + (in_order ? " [style=invis]}\n" : ";}\n");
}

std::string cluster_text(const Drawing& drawing, std::size_t index,
                         const std::vector<std::size_t>& boxes) {
  auto text = fmt::format(
      "  subgraph cluster_{} {{\n    label=<<B>{}</B>>;\n    labeljust=l;\n"
      "    style=\"rounded,filled\";\n    color=\"#C9CED6\";\n    fillcolor=\"#FAFBFC\";\n"
      "    fontsize=13;\n    margin=14;\n",
      index, escaped(drawing.nodes[index]));
  std::map<DrawnBox::Kind, std::vector<std::size_t>> by_kind;
  for (const auto box : boxes) {
    by_kind[drawing.boxes[box].kind].push_back(box);
    text += "    " + box_text(drawing.boxes[box], box);
  }
  text += level_text(by_kind[DrawnBox::Kind::host], true);
  text += level_text(by_kind[DrawnBox::Kind::cpu], true);
  text += level_text(by_kind[DrawnBox::Kind::gpu], false);
  return text + "  }\n";
}

}  // namespace

std::string graph_to_dot(const TopologyGraph& graph) {
  const auto drawing = draw(graph);
  std::string text =
      "digraph topology {\n"
      "  graph [fontname=\"Helvetica,Arial,sans-serif\", fontsize=10, rankdir=TB, nodesep=0.3,\n"
      "         ranksep=0.55, pad=0.3, bgcolor=white, newrank=true];\n"
      "  node [fontname=\"Helvetica,Arial,sans-serif\", fontsize=11, shape=box,\n"
      "        style=\"rounded,filled\", margin=\"0.12,0.07\", penwidth=1.2];\n"
      "  edge [fontname=\"Helvetica,Arial,sans-serif\", fontsize=8, fontcolor=\"#555555\",\n"
      "        dir=none];\n";
  text += heading(drawing);
  std::map<std::string_view, std::vector<std::size_t>> by_node;
  for (std::size_t i = 0; i < drawing.boxes.size(); ++i)
    by_node[drawing.boxes[i].node].push_back(i);
  for (std::size_t i = 0; i < drawing.nodes.size(); ++i)
    text += cluster_text(drawing, i, by_node[drawing.nodes[i]]);
  for (const auto box : by_node[""]) text += "  " + box_text(drawing.boxes[box], box);
  for (const auto& line : drawing.lines) text += line_text(line);
  return text + "}\n";
}

}  // namespace causeway
