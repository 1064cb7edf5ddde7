// MPI's all-reduce of floats, as collective_bench measures ours: mpirun -np N mpi_all_reduce
// BYTES...
#include <mpi.h>

#include <cstdlib>

#include "tests/transport/peers/batches.h"

int main(int count, char** words) {
  MPI_Init(&count, &words);
  int rank = 0, ranks = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  for (int i = 1; i < count; ++i) {
    const auto size = static_cast<std::size_t>(std::strtoull(words[i], nullptr, 10));
    std::vector<float> values(size / sizeof(float));
    const auto batch = [&](int times) {
      MPI_Barrier(MPI_COMM_WORLD);
      for (int k = 0; k < times; ++k)
        MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_FLOAT,
                      MPI_SUM, MPI_COMM_WORLD);
    };
    const auto agree = [](int number) {
      MPI_Bcast(&number, 1, MPI_INT, 0, MPI_COMM_WORLD);
      return number;
    };
    const auto reset = [&] { std::fill(values.begin(), values.end(), 1.0F); };
    const double seconds = causeway::bench::median_seconds(5, batch, agree, reset);
    if (rank == 0) causeway::bench::print("MPI", size, ranks, seconds);
  }
  MPI_Finalize();
}
