// What the broadcasts that are peers in the lab have in common.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

// Maps a file, the source to be read, a copy to be written, which gets as many bytes. Ends the
// program if it cannot.
inline char* map_file(const char* path, std::size_t bytes, bool is_source) {
    const int file = is_source ? open(path, O_RDONLY) : open(path, O_RDWR | O_CREAT, 0644);
    if (file < 0 || (!is_source && ftruncate(file, static_cast<off_t>(bytes)) != 0)) {
        std::perror(path);
        std::exit(1);
    }
    void* memory =
        mmap(nullptr, bytes, is_source ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
        std::perror("mmap");
        std::exit(1);
    }
    return static_cast<char*>(memory);
}
