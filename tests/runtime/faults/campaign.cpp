#include "campaign.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "garbage.h"
#include "live_pool.h"
#include "runtime/control/client.h"
#include "runtime/control/json.h"
#include "transport/addresses.h"
#include "worker_process.h"

namespace causeway::test {

namespace {

using namespace std::chrono_literals;

// Of each of a worker's calls. Where a fault is felt, a short one: it is waited for.
constexpr auto kFeltTimeout = 1000ms;
constexpr auto kAmpleTimeout = 10s;
constexpr auto kPatience = 60s;  // With what should come at once.
constexpr int kWarmUps = 3;
// A daemon with two cards, and buffers of UCX for each, is at 10 to 14 MiB after some 20 runs.
constexpr std::int64_t kMostKib = 20 * 1024;
constexpr std::int64_t kMostGrowthKib = 32;  // Per run, over many,
constexpr std::int64_t kEnoughRuns = 100;    // at least so many,
constexpr int kGrownUp = 20;                 // by a process that has been through so many.
constexpr std::size_t kMostLines = 10;       // Of one run's errors.
constexpr char kSelf = '*';                  // This program, among the nodes.
constexpr char kAll[] = {'a', 'b', 'c', kSelf};

bool has_own_books() {  // Sanitizers keep memory back.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  return true;
#else
  return false;
#endif
}

boost::json::object ask(const Daemons& daemons, char node, const char* path) {
  ControlClient client(daemons.control(node), Daemons::token(), std::string("daemon ") + node);
  return parse_object(client.call("GET", path, "", 5s).body, path);
}

std::string rails_of(const Daemons& daemons, char node) {
  return boost::json::serialize(ask(daemons, node, "/v1/node").at("rails"));
}

// What a process has open, by kind: for the message.
// "10.97.1.1:40163 to 10.97.3.1:33027", or where it listens, by the number of the socket.
std::map<std::string, std::string> tcp_sockets(pid_t process) {
  const auto place = [](const std::string& hex) {  // "0103610A:9CE3"
    const auto host = std::stoul(hex.substr(0, 8), nullptr, 16);
    return fmt::format("{}.{}.{}.{}:{}", host & 255, (host >> 8) & 255, (host >> 16) & 255,
                       host >> 24, std::stoul(hex.substr(9), nullptr, 16));
  };
  std::map<std::string, std::string> sockets;
  std::ifstream table(fmt::format("/proc/{}/net/tcp", process));
  std::string line;
  std::getline(table, line);
  while (std::getline(table, line)) {
    std::istringstream fields(line);
    std::string number, own, peer, state, skipped, inode;
    fields >> number >> own >> peer >> state;
    for (int i = 0; i < 5; ++i) fields >> skipped;
    fields >> inode;
    sockets[inode] = fmt::format("{} to {} ({})", place(own), place(peer), state);
  }
  return sockets;
}

std::string open_things(pid_t process) {
  std::map<std::string, int> kinds;
  const auto sockets = tcp_sockets(process);
  std::error_code gone;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/fd", gone)) {
    auto name = std::filesystem::read_symlink(entry.path(), gone).string();
    if (name.starts_with("socket:["))
      if (const auto known = sockets.find(name.substr(8, name.size() - 9)); known != sockets.end())
        name = known->second;
    if (name.find(" to ") != std::string::npos) {
      ++kinds["\n    " + name];
      continue;
    }
    ++kinds[name.substr(0, std::min(name.find(":["), name.find_first_of("0123456789")))];
  }
  std::string text;
  for (const auto& [kind, count] : kinds) text += fmt::format(" {} {}", count, kind);
  return text;
}

}  // namespace

Campaign::Campaign(Network& network) : network_(network) { begin_anew(); }
Campaign::~Campaign() = default;

bool Campaign::is_warm() const { return warm_ups_ == kWarmUps; }

void Campaign::begin_anew() {
  workers_.clear();
  active_.clear();
  bystander_.reset();
  daemons_.reset();
  for (const char* node = kNodes; *node != 0 && Network::is_entered(); ++node) network_.mend(*node);
  daemons_ = std::make_unique<Daemons>(network_);
  for (const char* node = kNodes; *node != 0; ++node) daemons_->start(*node);
  bystander_ = std::make_unique<Bystander>(*daemons_);
  descriptors_.clear();
  memory_.clear();
  warm_ups_ = 0;
}

std::vector<std::string> Campaign::run(const Plan& plan) {
  wrong_.clear();
  for (const auto& fault : plan.faults) ++faults_[fault.kind];
  try {
    start_workers(plan);
    work(plan);
    restart_killed();
    wait_joined();
    verify(plan);
    dismiss_workers();
    bystander_->check(plan.may_be_gone());
    bystander_->introduce_nodes();
    check_left_overs();
    check_descriptors();
    for (const char* node = kNodes; *node != 0; ++node) watch_memory(*node);
  } catch (const std::exception& error) {
    wrong(error.what());
  }
  dismiss_workers();
  if (wrong_.size() > kMostLines) wrong_.resize(kMostLines);
  if (!wrong_.empty()) {
    for (const char node : {'a', 'b'})
      wrong(fmt::format("the end of the log of {}:\n{}", node, daemons_->log_tail(node)));
    begin_anew();
  }
  return wrong_;
}

void Campaign::dismiss_workers() {
  for (const auto& worker : workers_)
    wrong_.insert(wrong_.end(), worker->wrong.begin(), worker->wrong.end());
  workers_.clear();
}

void Campaign::start_workers(const Plan& plan) {
  for (int i = 0; i < static_cast<int>(plan.workers.size()); ++i) {
    const auto& [home, is_local] = plan.workers[static_cast<std::size_t>(i)];
    WorkerOptions options{is_local ? "unix:" + daemons_->socket(home) : daemons_->control(home),
                          Daemons::token(),
                          plan.seed * 4 + static_cast<unsigned>(i),
                          kAmpleTimeout,
                          plan.work_time,
                          plan.may_fail(i)};
    if (!options.may_fail.empty()) options.timeout = kFeltTimeout;
    workers_.push_back(std::make_unique<WorkerProcess>(options));
  }
  for (const auto& worker : workers_)
    if (!worker->hears("ready", Clock::now() + kPatience))
      throw std::runtime_error("a worker did not begin");
}

// Until every worker's work has ended or it was killed; faults that last end then.
void Campaign::work(const Plan& plan) {
  is_calm_ = std::ranges::none_of(plan.faults, &Fault::is_felt);
  for (const auto& worker : workers_) worker->say("go");
  const auto start = Clock::now();
  const auto limit = start + plan.work_time + kPatience;
  auto next = plan.faults.begin();
  const auto is_busy = [](const auto& worker) {
    return !worker->has_ended_work && !worker->is_killed();
  };
  while (next != plan.faults.end() || std::ranges::any_of(workers_, is_busy)) {
    const auto now = Clock::now();
    if (now > limit) throw std::runtime_error("a call of a worker hangs");
    if (next != plan.faults.end() && now >= start + next->at) apply(plan, *next++);
    bool can_end = next == plan.faults.end();
    for (const auto& worker : workers_) {
      if (is_busy(worker)) worker->has_ended_work = worker->hears("ended", Clock::now() + 2ms);
      const auto i = &worker - workers_.data();
      // One that is stopped cannot say so.
      const bool is_stopped = std::ranges::any_of(active_, [&](const Active& active) {
        return active.fault.kind == FaultKind::stop_worker && active.fault.worker == i;
      });
      can_end = can_end && (!is_busy(worker) || is_stopped);
    }
    std::erase_if(active_, [&](Active& active) {
      if (active.fault.lasts ? Clock::now() < active.end : !can_end) return false;
      end(active);
      return true;
    });
  }
  while (!active_.empty()) {
    std::this_thread::sleep_until(active_.back().end);
    end(active_.back());
    active_.pop_back();
  }
}

void Campaign::apply(const Plan& plan, const Fault& fault) {
  Active active{fault, Clock::now() + fault.lasts.value_or(0ms)};
  auto& worker = *workers_[static_cast<std::size_t>(fault.worker)];
  switch (fault.kind) {
    case FaultKind::kill_daemon:
      daemons_->kill(fault.node);
      break;
    case FaultKind::kill_worker:
      worker.kill();
      break;
    case FaultKind::pause_daemon:
    case FaultKind::stop_daemon:
      daemons_->signal(fault.node, SIGSTOP);
      break;
    case FaultKind::pause_worker:
    case FaultKind::stop_worker:
      worker.signal(SIGSTOP);
      break;
    case FaultKind::blink:
    case FaultKind::cut:
      network_.cut(fault.node, fault.is_silent);
      break;
    case FaultKind::lose_card:
      network_.cut(fault.node, Network::second, fault.is_silent);
      break;
    case FaultKind::disk_full:
      daemons_->fill_disk();
      break;
    case FaultKind::log_unread:
      daemons_->read_log_pipe(false);
      break;
    case FaultKind::garbage_data:
    case FaultKind::garbage_control:
    case FaultKind::garbage_admitted: {
      if (!daemons_->is_running(fault.node)) return;  // Two faults at once: it is dead.
      constexpr const char* kNames[] = {"data", "control", "admitted"};
      const auto which = static_cast<int>(fault.kind) - static_cast<int>(FaultKind::garbage_data);
      const GarbageOptions options{kNames[which],
                                   plan.seed,
                                   *fault.lasts,
                                   daemons_->control(fault.node),
                                   first_address(daemons_->data(fault.node)),
                                   Daemons::token(),
                                   Network::interface_towards(fault.node),
                                   bystander_->session(),
                                   bystander_->region(fault.node)};
      tools::SpawnOptions spawn;
      spawn.command = {std::filesystem::read_symlink("/proc/self/exe").string(), "garbage"};
      for (auto& argument : options.to_arguments()) spawn.command.push_back(argument);
      spawn.environment = {{"UCX_HANDLE_ERRORS", "none"}, {"UCX_LOG_LEVEL", "fatal"}};
      const UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
      if (fault.kind == FaultKind::garbage_admitted) spawn.stderr_fd = null.get();
      spawn.die_with_parent = true;
      active.garbage = tools::spawn(spawn);
      break;
    }
  }
  active_.push_back(std::move(active));
}

void Campaign::end(Active& active) {
  const auto& fault = active.fault;
  switch (fault.kind) {
    case FaultKind::pause_daemon:
    case FaultKind::stop_daemon:
      daemons_->signal(fault.node, SIGCONT);
      break;
    case FaultKind::pause_worker:
    case FaultKind::stop_worker:
      workers_[static_cast<std::size_t>(fault.worker)]->signal(SIGCONT);
      break;
    case FaultKind::blink:
    case FaultKind::cut:
    case FaultKind::lose_card:
      network_.mend(fault.node);
      break;
    case FaultKind::disk_full:
      use_sessions('a');
      use_sessions('b');
      daemons_->empty_disk();
      break;
    case FaultKind::log_unread:
      use_sessions('c');
      daemons_->read_log_pipe(true);
      break;
    default:
      break;
  }
  if (!active.garbage) return;
  int status = 0;
  const auto pid = active.garbage->id().pid;
  if (!is_calm_) {  // It may wait for what another fault has taken away, and must not prolong that.
    active.garbage->signal(SIGKILL);
    ::waitpid(pid, &status, 0);
    return;
  }
  if (!eventually([&] { return ::waitpid(pid, &status, WNOHANG) == pid; }, kPatience)) {
    active.garbage->signal(SIGKILL);
    ::waitpid(pid, &status, 0);
    wrong("who sends garbage hangs");
  }
  // Nobody shields the sender from UCX's defects: it may be aborted by one that it provoked.
  const bool is_aborted = fault.kind == FaultKind::garbage_admitted && WIFSIGNALED(status);
  if (status != 0 && !is_aborted)
    wrong(fmt::format("{} ended with status {:#x}", test::to_string(fault.kind), status));
}

// Sessions come and go, which a daemon logs; it must not take longer over it.
void Campaign::use_sessions(char node) {
  const bool is_hit = std::ranges::any_of(
      active_, [&](const Active& each) { return each.fault.node == node && each.fault.is_felt(); });
  if (is_hit || !daemons_->is_running(node)) return;
  for (int i = 0; i < 40; ++i) {
    ControlClient client(daemons_->control(node), Daemons::token(), std::string("daemon ") + node);
    static_cast<void>(client.call("POST", "/v1/sessions", R"({"client": "passer-by"})", 5s));
  }
}

void Campaign::restart_killed() {
  for (const char* node = kNodes; *node != 0; ++node) {
    if (daemons_->is_running(*node)) continue;
    // What a cut or a kill elsewhere may take away, it may not end: nobody else would notice.
    if (const auto end = daemons_->take_own_end(*node); !end.empty()) wrong(end);
    daemons_->start(*node);
    memory_.erase(*node);
  }
}

// Until the directory knows all nodes at their addresses.
void Campaign::wait_joined() {
  std::string seen;
  const bool is_joined = eventually(
      [&] {
        try {
          std::set<std::string> there;
          const auto answer = ask(*daemons_, 'a', "/v1/nodes");
          seen = boost::json::serialize(answer);
          for (const auto& node : answer.at("nodes").as_array())
            if (node.at("alive").as_bool())
              there.insert(std::string(std::string_view(node.at("data").as_string())));
          return there.contains(daemons_->data('a')) && there.contains(daemons_->data('b')) &&
                 there.contains(daemons_->data('c'));
        } catch (const Error& error) {
          seen = error.what();
          return false;
        }
      },
      kPatience);
  if (!is_joined) throw std::runtime_error("the nodes do not find together again: " + seen);
}

void Campaign::verify(const Plan& plan) {
  const auto limit = Clock::now() + kPatience;
  for (const auto& worker : workers_)
    if (!worker->is_killed()) worker->say("verify " + plan.may_be_gone());
  for (const auto& worker : workers_) {
    if (worker->is_killed()) continue;
    std::string counts;
    if (!worker->hears("verified", limit)) throw std::runtime_error("a worker cannot verify");
    worker->say("quit");
    if (!worker->hears("counts", limit, &counts)) throw std::runtime_error("a worker cannot end");
    const auto status = worker->wait(limit);
    if (!status) throw std::runtime_error("a worker does not end");
    if (*status != 0 && worker->wrong.empty())
      wrong(fmt::format("a worker ended with status {:#x}", *status));
    std::istringstream words(counts);
    for (std::string word; words >> word;) {
      const auto at = word.find('=');
      auto& value = counts_[word.substr(0, at)];
      const auto more = std::stod(word.substr(at + 1));
      value = word.starts_with("latest_ms") ? std::max(value, more) : value + more;
    }
  }
}

std::string Campaign::left_over() const {
  std::string text;
  for (const char* node = kNodes; *node != 0; ++node) {
    const auto state = ask(*daemons_, *node, "/v1/node");
    for (const auto& device : state.at("devices").as_array())
      if (const auto used = get_uint(device.as_object(), "used_bytes", "a device");
          used != Bystander::kBytesPerNode)
        text += fmt::format(" {} has {} bytes in use;", *node, used);
    for (const auto& client : state.at("clients").as_array())
      if (!std::string_view(client.as_string()).starts_with("bystander"))
        text += fmt::format(" {} has client {};", *node, std::string_view(client.as_string()));
  }
  return text;
}

void Campaign::check_left_overs() {
  std::string left;
  if (!eventually(
          [&] {
            left = left_over();
            return left.empty();
          },
          10s))
    wrong("left over:" + left);
}

void Campaign::check_descriptors() {
  // This program is a client that lives long, too.
  const auto of = [&](char who) {
    return who == kSelf ? descriptors_of(::getpid()) : daemons_->descriptors(who);
  };
  if (warm_ups_ < kWarmUps) {
    // What is open always; a connection that has ended is closed in a moment.
    const auto end = Clock::now() + (++warm_ups_ == kWarmUps ? 1000ms : 0ms);
    for (const char who : kAll) descriptors_[who] = of(who);
    for (; Clock::now() < end; std::this_thread::sleep_for(20ms))
      for (const char who : kAll) descriptors_[who] = std::min(descriptors_[who], of(who));
    return;
  }
  const auto limit = Clock::now() + 10s;
  for (const char who : kAll)
    while (of(who) != descriptors_[who]) {
      if (Clock::now() > limit)
        return wrong(fmt::format("{} has {} descriptors open instead of {}:{}",
                                 who == kSelf ? "the bystander" : std::string("daemon ") + who,
                                 of(who), descriptors_[who],
                                 open_things(who == kSelf ? ::getpid() : daemons_->pid(who))) +
                     (who == kSelf ? "" : "; rails: " + rails_of(*daemons_, who)));
      std::this_thread::sleep_for(20ms);
      // A channel that a cut has hurt may still have been lost a moment ago.
      bystander_->check("");
      bystander_->introduce_nodes();
    }
}

void Campaign::watch_memory(char node) {
  const auto kib = daemons_->memory_kib(node);
  most_kib_ = std::max(most_kib_, kib);
  auto& memory = memory_[node];
  if (++memory.runs > kGrownUp) {
    grown_kib_ += kib - memory.last_kib;
    ++grown_runs_;
  }
  memory.last_kib = kib;
  if (!has_own_books() && kib > kMostKib)
    wrong(fmt::format("daemon {} has {} KiB of memory", node, kib));
}

std::vector<std::string> Campaign::finish() {
  wrong_.clear();
  bystander_.reset();
  for (const char node : {'c', 'b', 'a'})
    if (const auto error = daemons_->stop(node); !error.empty()) wrong(error);
  if (!has_own_books() && grown_runs_ >= kEnoughRuns && grown_kib_ > kMostGrowthKib * grown_runs_)
    wrong(fmt::format("daemons grew by {} KiB in {} runs", grown_kib_, grown_runs_));
  return wrong_;
}

std::string Campaign::summary() const {
  std::string text = "faults:\n";
  for (const auto& [kind, count] : faults_)
    text += fmt::format("  {:5} {}\n", count, test::to_string(kind));
  text += "calls:\n";
  for (const auto& [what, count] : counts_) text += fmt::format("  {:10.0f} {}\n", count, what);
  text += fmt::format("memory of a daemon: at most {} KiB; {} KiB more in {} runs\n", most_kib_,
                      grown_kib_, grown_runs_);
  return text;
}

}  // namespace causeway::test
