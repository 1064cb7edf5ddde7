#include "transport/ucx/turnstile.h"

#include <algorithm>

namespace causeway::ucx {

using std::chrono::steady_clock;

namespace {
constexpr std::uint64_t kQuantumBytes = 1 << 20;
}

Turnstile::Account& Turnstile::account_of(Tenant tenant) {
  return accounts_.try_emplace(tenant, Account{.line = lines_.end()}).first->second;
}

// Of a tenant that has an account. A job may be larger than all the room that there is for it.
bool Turnstile::has_room(const Job& job) const noexcept {
  const auto fits = [&](std::uint64_t used, std::uint64_t most) {
    return used == 0 || (used <= most && job.size_bytes <= most - used);
  };
  const auto tenants = accounts_.size();
  const auto part = tenants > 1 ? std::max(kShared / tenants, kLeast) : most_bytes_ / 2;
  return fits(in_service_bytes_, most_bytes_) &&
         fits(accounts_.find(job.tenant)->second.in_service_bytes, part);
}

void Turnstile::enter(Job job) {
  auto& account = account_of(job.tenant);
  if (account.line == lines_.end()) {
    if (has_room(job)) return run(std::move(job));
    account.line = lines_.insert(lines_.end(), Line{.tenant = job.tenant});
  }
  account.line->jobs.push_back(std::move(job));
  ++waiting_;
}

void Turnstile::leave(Owner owner, Tenant tenant, std::uint64_t size_bytes) {
  const auto found = in_service_.find({owner, tenant});
  if (found == in_service_.end()) return;  // Forgotten.
  auto& service = found->second;
  const auto size = std::min(size_bytes, service.bytes);
  service.bytes -= size;
  service.moved_at = steady_clock::now();
  if (service.bytes == 0) in_service_.erase(found);
  settle(tenant, size);
  serve();
}

void Turnstile::settle(Tenant tenant, std::uint64_t size_bytes) {
  in_service_bytes_ -= size_bytes;
  auto& account = accounts_.find(tenant)->second;
  account.in_service_bytes -= size_bytes;
  if (account.in_service_bytes == 0 && account.line == lines_.end()) accounts_.erase(tenant);
}

void Turnstile::forget(Owner owner) {
  for (auto each = in_service_.lower_bound({owner, 0});
       each != in_service_.end() && each->first.first == owner; each = in_service_.erase(each))
    settle(each->first.second, each->second.bytes);
  std::vector<Job> dropped;
  for (auto line = lines_.begin(); line != lines_.end();) {
    std::erase_if(line->jobs, [&](Job& job) {
      if (job.owner != owner) return false;
      dropped.push_back(std::move(job));
      return true;
    });
    const auto next = std::next(line);
    end_if_empty(line);
    line = next;
  }
  waiting_ -= dropped.size();
  for (auto& job : dropped) job.drop();
  serve();
}

void Turnstile::end_if_empty(std::list<Line>::iterator line) {
  if (!line->jobs.empty()) return;
  const auto tenant = line->tenant;
  accounts_.find(tenant)->second.line = lines_.end();
  lines_.erase(line);
  settle(tenant, 0);
}

bool Turnstile::withdraw(Owner owner, Tenant tenant, std::uint64_t id) {
  const auto account = accounts_.find(tenant);
  if (account == accounts_.end() || account->second.line == lines_.end()) return false;
  const auto line = account->second.line;
  const auto found = std::ranges::find_if(
      line->jobs, [&](const Job& job) { return job.owner == owner && job.id == id; });
  if (found == line->jobs.end()) return false;
  const auto job = std::move(*found);
  line->jobs.erase(found);
  --waiting_;
  end_if_empty(line);
  job.drop();
  return true;
}

std::vector<Turnstile::Owner> Turnstile::stalled(steady_clock::time_point then) const {
  std::vector<Owner> owners;
  if (waiting_ == 0) return owners;
  for (const auto& [whose, service] : in_service_)
    if (service.bytes > 0 && service.moved_at < then) owners.push_back(whose.first);
  return owners;
}

void Turnstile::run(Job job) {
  in_service_bytes_ += job.size_bytes;
  account_of(job.tenant).in_service_bytes += job.size_bytes;
  auto& service = in_service_[{job.owner, job.tenant}];
  if (service.bytes == 0) service.moved_at = steady_clock::now();
  service.bytes += job.size_bytes;
  job.run();
}

// A job may end before run() returns, and call leave(): then the loop here goes on.
void Turnstile::serve() {
  if (std::exchange(is_serving_, true)) return;
  for (std::size_t passed = 0; passed < lines_.size();) {
    auto& line = lines_.front();
    const auto size_bytes = line.jobs.front().size_bytes;
    if (!has_room(line.jobs.front())) {
      lines_.splice(lines_.end(), lines_, lines_.begin());
      ++passed;
      continue;
    }
    passed = 0;
    if (line.deficit_bytes < size_bytes) {
      line.deficit_bytes += kQuantumBytes;
      lines_.splice(lines_.end(), lines_, lines_.begin());
      continue;
    }
    line.deficit_bytes -= size_bytes;
    auto job = std::move(line.jobs.front());
    line.jobs.pop_front();
    --waiting_;
    if (line.jobs.empty()) {
      accounts_.find(line.tenant)->second.line = lines_.end();
      lines_.pop_front();
    }
    run(std::move(job));
  }
  is_serving_ = false;
}

}  // namespace causeway::ucx
