// mpi-bcast: broadcasts a file from rank 0 into a file of each other rank, by one MPI_Bcast. How
// that is done is up to MPI's settings. Compiled by the lab, with mpicxx, and not by meson.
//
// mpirun ... mpi-bcast SOURCE COPY_OF_RANK_1 COPY_OF_RANK_2...
#include <mpi.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "map_file.h"

namespace {

void say(const char* word, int rank) {
    std::printf("%s %d %d\n", word, rank, static_cast<int>(getpid()));
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    MPI_Init(&argc, &argv);
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    struct stat told {};
    if (argc <= rank + 1 || stat(argv[1], &told) != 0) {
        std::fputs("usage: mpi-bcast SOURCE COPY_OF_RANK_1...\n", stderr);
        return 2;
    }
    char* memory = map_file(argv[rank + 1], static_cast<std::size_t>(told.st_size), rank == 0);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank > 0) {
        say("loaded", rank);
    } else {
        std::getchar();
    }
    MPI_Bcast(memory, static_cast<int>(told.st_size), MPI_BYTE, 0, MPI_COMM_WORLD);
    if (rank > 0) {
        say("done", rank);
    }
    MPI_Finalize();
    return 0;
}
