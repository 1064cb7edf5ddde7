// MPI's send, put and get, as ucx_copy_bench measures ours: mpirun -np 2 mpi_copy BYTES...
// A put counts when a flush says that it is complete at the target.
#include <mpi.h>

#include <cstdlib>

#include "tests/transport/peers/batches.h"

namespace bench = causeway::bench;

namespace {

int rank_here() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

void send_window(std::vector<char>& bytes, int count) {
  std::vector<MPI_Request> requests(static_cast<std::size_t>(count));
  for (auto& request : requests)
    if (rank_here() == 0)
      MPI_Isend(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, 1, 1, MPI_COMM_WORLD,
                &request);
    else
      MPI_Irecv(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, 0, 1, MPI_COMM_WORLD,
                &request);
  MPI_Waitall(count, requests.data(), MPI_STATUSES_IGNORE);
}

void one_sided_window(bool is_write, std::vector<char>& bytes, int count, MPI_Win window) {
  const int size = static_cast<int>(bytes.size());
  for (int k = 0; k < count; ++k)
    if (is_write)
      MPI_Put(bytes.data(), size, MPI_BYTE, 1, 0, size, MPI_BYTE, window);
    else
      MPI_Get(bytes.data(), size, MPI_BYTE, 1, 0, size, MPI_BYTE, window);
  MPI_Win_flush(1, window);
}

// Calls one(count) for the windows of `times` operations.
template <typename One>
auto batch(std::size_t size, const One& one) {
  return [size, one](int times) {
    MPI_Barrier(MPI_COMM_WORLD);
    for (int left = times; left > 0; left -= bench::window(size))
      one(std::min(left, bench::window(size)));
    MPI_Barrier(MPI_COMM_WORLD);  // All have arrived; the target makes progress here.
  };
}

int agree(int number) {
  MPI_Bcast(&number, 1, MPI_INT, 0, MPI_COMM_WORLD);
  return number;
}

}  // namespace

int main(int count, char** words) {
  MPI_Init(&count, &words);
  const auto median = [](const auto& run) {
    return bench::median_seconds(
        1, run, agree, [] {}, bench::kMostCopies);
  };
  const bool is_first = rank_here() == 0;
  for (int i = 1; i < count; ++i) {
    const auto size = static_cast<std::size_t>(std::strtoull(words[i], nullptr, 10));
    std::vector<char> bytes(size, 1);
    const double send = median(batch(size, [&](int now) { send_window(bytes, now); }));
    if (is_first) bench::print_copy("send", size, send);
    std::vector<char> memory(size, 2);
    MPI_Win window = MPI_WIN_NULL;
    MPI_Win_create(memory.data(), static_cast<MPI_Aint>(size), 1, MPI_INFO_NULL, MPI_COMM_WORLD,
                   &window);
    if (is_first) MPI_Win_lock(MPI_LOCK_SHARED, 1, 0, window);
    for (const bool is_write : {true, false}) {
      const double seconds = median(batch(size, [&](int now) {
        if (is_first) one_sided_window(is_write, bytes, now, window);
      }));
      if (is_first) bench::print_copy(is_write ? "write" : "read", size, seconds);
    }
    if (is_first) MPI_Win_unlock(1, window);
    MPI_Win_free(&window);
  }
  const double trip = median([&](int times) {
    char small[8] = {};
    MPI_Barrier(MPI_COMM_WORLD);
    for (int k = 0; k < times; ++k) {
      if (!is_first) MPI_Recv(small, 8, MPI_BYTE, 0, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      MPI_Send(small, 8, MPI_BYTE, is_first ? 1 : 0, 2, MPI_COMM_WORLD);
      if (is_first) MPI_Recv(small, 8, MPI_BYTE, 1, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
  });
  if (is_first) bench::print_half_trip(trip / 2);
  MPI_Finalize();
}
