// mpi-bcast: broadcasts a file from rank 0 into a file of each other rank, by one MPI_Bcast. How
// that is done is up to MPI's settings. Compiled by the lab, with mpicxx, and not by meson.
//
// mpirun ... mpi-bcast SOURCE COPY_OF_RANK_1 COPY_OF_RANK_2...
#include <fcntl.h>
#include <mpi.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace {

void* map_file(const char* path, long bytes, bool is_source) {
    const int file = is_source ? open(path, O_RDONLY) : open(path, O_RDWR | O_CREAT, 0644);
    if (file < 0 || (!is_source && ftruncate(file, bytes) != 0)) {
        std::perror(path);
        std::exit(1);
    }
    void* memory = mmap(nullptr, static_cast<std::size_t>(bytes),
                        is_source ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
        std::perror("mmap");
        std::exit(1);
    }
    return memory;
}

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
    void* memory = map_file(argv[rank + 1], told.st_size, rank == 0);
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
