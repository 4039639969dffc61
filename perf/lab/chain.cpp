// lab-chain: the pipeline that one would write by hand. The source sends a file to the next host,
// each relay forwards what it receives block by block and writes it, the tail only writes. Nothing
// is verified, and whatever breaks breaks all that follows.
//
// lab-chain source FILE NEXT | lab-chain relay FILE NEXT | lab-chain tail FILE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr std::uint16_t kPort = 7071;
constexpr std::size_t kBlockBytes = 64 * 1024;
constexpr useconds_t kRetryUs = 2000;

// Ends the program if a call failed, else hands its result on.
template <typename T>
T check(T result, const char* call) {
    if (result < 0) {
        std::perror(call);
        std::exit(1);
    }
    return result;
}

sockaddr_in address_of(const char* host) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(kPort);
    check(inet_pton(AF_INET, host, &address.sin_addr) - 1, "inet_pton");
    return address;
}

int accept_one() {
    const int listener = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    const int yes = 1;
    check(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)), "setsockopt");
    const sockaddr_in address = address_of("0.0.0.0");
    check(bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), "bind");
    check(listen(listener, 1), "listen");
    return check(accept(listener, nullptr, nullptr), "accept");
}

// Tries until the next host listens.
int connect_to(const char* host) {
    const sockaddr_in address = address_of(host);
    for (;;) {
        const int next = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
        if (connect(next, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
            return next;
        }
        if (errno != ECONNREFUSED) {
            check(-1, "connect");
        }
        close(next);
        usleep(kRetryUs);
    }
}

void write_all(int file, const char* data, std::size_t bytes) {
    while (bytes > 0) {
        const ssize_t written = check(write(file, data, bytes), "write");
        data += written;
        bytes -= static_cast<std::size_t>(written);
    }
}

// What comes from `in` goes to each of `outs`, the next host first. The stream begins with the
// number of bytes that follow, so that a broken one is not taken for a whole one.
void pump(int in, std::uint64_t bytes, const std::vector<int>& outs) {
    std::vector<char> block(kBlockBytes);
    while (bytes > 0) {
        const ssize_t got = check(read(in, block.data(), block.size()), "read");
        if (got == 0) {
            std::fputs("lab-chain: the stream ended too early\n", stderr);
            std::exit(1);
        }
        for (const int out : outs) {
            write_all(out, block.data(), static_cast<std::size_t>(got));
        }
        bytes -= static_cast<std::uint64_t>(got);
    }
}

void send_file(const char* path, const char* next_host) {
    const int file = check(open(path, O_RDONLY), path);
    struct stat told {};
    check(fstat(file, &told), "fstat");
    const auto bytes = static_cast<std::uint64_t>(told.st_size);
    const int next = connect_to(next_host);
    write_all(next, reinterpret_cast<const char*>(&bytes), sizeof(bytes));
    pump(file, bytes, {next});
}

void receive_file(const char* path, const char* next_host) {
    const int file = check(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644), path);
    const int before = accept_one();
    std::uint64_t bytes = 0;
    if (recv(before, &bytes, sizeof(bytes), MSG_WAITALL) != sizeof(bytes)) {
        std::fputs("lab-chain: no length came\n", stderr);
        std::exit(1);
    }
    std::vector<int> outs;
    if (next_host != nullptr) {
        outs.push_back(connect_to(next_host));
        write_all(outs.front(), reinterpret_cast<const char*>(&bytes), sizeof(bytes));
    }
    outs.push_back(file);
    pump(before, bytes, outs);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string role = argc > 1 ? argv[1] : "";
    if (role == "source" && argc == 4) {
        send_file(argv[2], argv[3]);
    } else if (role == "relay" && argc == 4) {
        receive_file(argv[2], argv[3]);
    } else if (role == "tail" && argc == 3) {
        receive_file(argv[2], nullptr);
    } else {
        std::fputs("usage: lab-chain source|relay FILE NEXT, or lab-chain tail FILE\n", stderr);
        return 2;
    }
    return 0;
}
