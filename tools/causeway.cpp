// The command line of Causeway: `causeway COMMAND ...`; one file per command in tools/commands/.
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <span>

#include "tools/base/interrupt.h"
#include "tools/commands/command.h"

namespace {

using namespace causeway::tools;

int report(const std::string& code, std::string message, int exit_code, bool json) {
  if (json)
    fmt::print("{{\"error\":{{\"code\":\"{}\",\"message\":{}}}}}\n", code, json_string(message));
  while (!message.empty() && message.back() == '\n') message.pop_back();
  fmt::print(stderr, "causeway: {}\n", message);
  return exit_code;
}

int run(int argc, char** argv) {
  CLI::App app{"Causeway joins VRAM islands: one memory pool from the GPUs of many machines."};
  app.name("causeway");
  app.require_subcommand(1);
  app.set_version_flag("--version", "causeway " CAUSEWAY_VERSION);
  app.footer(std::string("Example:\n  causeway lab up desktop-and-hgx && causeway status --lab "
                         "desktop-and-hgx\n\n") +
             kExitCodesText);
  Shell shell;
  for (const auto add : {add_up, add_down, add_status, add_regions, add_topo, add_model, add_plan,
                         add_lab, add_bench})
    add(app, shell);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help and --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    const auto arguments = std::span(argv, static_cast<std::size_t>(argc));
    const bool json = std::ranges::any_of(
        arguments, [](const char* argument) { return std::string_view(argument) == "--json"; });
    return report("usage", std::string(error.what()) + " (see --help)", kExitUsage, json);
  }
  try {
    return shell.run();
  } catch (const causeway::Error& error) {
    const auto code = exit_code(error.code());
    return report(std::string(to_string(error.code())), error.what(),
                  code == kExitError ? shell.error_code : code, shell.json);
  } catch (const std::exception& error) {
    return report("internal", error.what(), shell.error_code, shell.json);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  catch_interrupts();
  return run(argc, argv);
}
