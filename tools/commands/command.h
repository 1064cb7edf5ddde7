// What all subcommands of `causeway` share: common options, the way to a daemon, exit codes.
//
// Shape:   each file in this folder adds one subcommand with add_X(app, shell). Parsing only stores
//          what is to run; main runs it, and turns an Error into one line and an exit code.
// Errors:  commands throw Error; exit_code() maps it.
// Threads: one thread.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>

#include "causeway/error.h"
#include "causeway/pool.h"
#include "causeway/topology.h"

namespace causeway::tools {

enum ExitCode : int {
  kExitOk = 0,
  kExitError = 1,
  kExitUsage = 2,
  kExitOutOfMemory = 3,
  kExitUnreachable = 4,  // No daemon there, or a peer died.
  kExitNoAnswer = 5,  // Of commands whose 1 and 2 are answers: the error that kept them from one.
};
[[nodiscard]] int exit_code(Errc code) noexcept;
inline constexpr const char* kExitCodesText =
    "Exit codes: 0 ok, 1 error, 2 usage, 3 out of memory, 4 daemon or peer unreachable.";

// What main needs once the line is parsed.
struct Shell {
  bool json = false;
  std::function<int()> run;     // Of the subcommand that was chosen.
  int error_code = kExitError;  // What an error is here.
};

// Where the pool is. Nothing given: the socket of `causeway up`.
struct Connection {
  std::string lab;
  std::string socket;
  std::string address;
  std::string token_file;
};

// A subcommand with --json, an example in its help, and `run` as what it does.
CLI::App* add_command(CLI::App& parent, Shell& shell, const std::string& name,
                      const std::string& description, const std::string& example,
                      std::function<int()> run, const std::string& exit_codes = kExitCodesText);
void add_connection_options(CLI::App& command, Connection& connection);
// --gpus, as causewayd takes it; `mode` is the default.
void add_gpus_option(CLI::App& command, std::string& mode);

[[nodiscard]] PoolOptions pool_options(const Connection& connection);
// Errors: peer_lost (exit code 4) saying how to start a daemon, if none answers.
[[nodiscard]] Pool connect_pool(const Connection& connection);

// "desktop/gpu0,hgx/gpu1" as devices.
[[nodiscard]] std::vector<DeviceName> parse_devices(const std::vector<std::string>& names);
// "RTX 5090" for a catalogue name; "host memory"; else the name itself.
[[nodiscard]] std::string model_title(const std::string& model);
// "1.79 TB/s".
[[nodiscard]] std::string format_rate(double bytes_per_s);
// "200 us".
[[nodiscard]] std::string format_seconds(double seconds);
// As a JSON string, with quotes.
[[nodiscard]] std::string json_string(const std::string& text);

void add_up(CLI::App& app, Shell& shell);
void add_down(CLI::App& app, Shell& shell);
void add_status(CLI::App& app, Shell& shell);
void add_regions(CLI::App& app, Shell& shell);
void add_topo(CLI::App& app, Shell& shell);
void add_model(CLI::App& app, Shell& shell);
void add_plan(CLI::App& app, Shell& shell);
void add_lab(CLI::App& app, Shell& shell);
void add_bench(CLI::App& app, Shell& shell);

}  // namespace causeway::tools
