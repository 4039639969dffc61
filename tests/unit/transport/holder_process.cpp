#include "tests/unit/transport/holder_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "base/mapping.h"
#include "base/random.h"

namespace weightcast::test {
namespace {

struct Introduction {
    std::array<char, 512> address{};
    fabric::Incarnation incarnation{};
    std::size_t key_bytes = 0;
    std::array<std::byte, fabric::kRegionKeyBytesMax> key{};
};

template <typename Value>
void send_value(int fd, const Value& value) {
    WEIGHTCAST_ASSERT(::write(fd, &value, sizeof value) == ssize_t{sizeof value});
}

// False: the other end was closed.
template <typename Value>
bool receive_value(int fd, Value& value) {
    return ::read(fd, &value, sizeof value) == ssize_t{sizeof value};
}

UniqueFd make_file(MemoryKind kind, std::size_t bytes) {
    UniqueFd fd;
    if (kind == MemoryKind::file) {
        std::string path = "/tmp/weightcast-test-XXXXXX";
        fd.reset(::mkostemp(path.data(), O_CLOEXEC));
        ::unlink(path.c_str());
        WEIGHTCAST_ASSERT(::ftruncate(fd.get(), static_cast<::off_t>(bytes)) == 0);
    }
    return fd;
}

[[noreturn]] void run_holder(HolderProcess::Open open, MemoryKind kind, std::uint64_t seed,
                             std::size_t bytes, std::size_t hidden, int commands, int answers) {
    // Nothing of the test's survives the test, whatever happens to it.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    fabric::FabricOptions options;
    options.incarnation = random_identity();
    auto opened = open(options);
    WEIGHTCAST_ASSERT(opened.has_value());
    const auto fabric = std::move(opened).value();

    SharedMemory shared;
    UniqueFd file = make_file(kind, bytes);
    Mapping pages;
    if (kind == MemoryKind::memfd) {
        auto made = SharedMemory::create("holder", bytes);
        WEIGHTCAST_ASSERT(made.has_value());
        shared = std::move(made).value();
        file = std::move(shared.fd);
        pages = std::move(shared.pages);
    } else {
        const int flags = file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
        void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, file.get(), 0);
        WEIGHTCAST_ASSERT(at != MAP_FAILED);
        pages = Mapping(at, bytes);
    }
    for (std::size_t i = 0; i < bytes; ++i) pages.data()[i] = pattern(seed, i);

    const fabric::Memory memory{pages.span().subspan(hidden), file.get(), hidden,
                                kind == MemoryKind::file};
    auto registered = fabric->register_memory(memory, fabric::Access::remote_read);
    WEIGHTCAST_ASSERT(registered.has_value());
    auto region = std::move(registered).value();

    Introduction introduction;
    const std::string address = fabric->address();
    std::memcpy(introduction.address.data(), address.data(), address.size());
    introduction.incarnation = options.incarnation;
    const auto key = region->key();
    introduction.key_bytes = key.size();
    std::memcpy(introduction.key.data(), key.data(), key.size());
    send_value(answers, introduction);

    for (char what = 0; receive_value(commands, what);) {
        if (what == 'r') {
            region.reset();
            std::memset(pages.data(), 0, pages.size());
        } else if (what == 't') {
            WEIGHTCAST_ASSERT(::ftruncate(file.get(), static_cast<::off_t>(bytes / 2)) == 0);
        } else if (what == 'u') {
            pages = Mapping();
        }
        send_value(answers, what);
    }
    ::_exit(0);
}

}  // namespace

std::byte pattern(std::uint64_t seed, std::uint64_t offset) {
    std::uint64_t x = (seed + offset) * 0x9E3779B97F4A7C15U;
    return static_cast<std::byte>(x >> 56U);
}

HolderProcess::HolderProcess(Open open, MemoryKind kind, std::uint64_t seed, std::size_t bytes,
                             std::size_t hidden_bytes) {
    std::array<int, 2> commands{};
    std::array<int, 2> answers{};
    WEIGHTCAST_ASSERT(::pipe2(commands.data(), O_CLOEXEC) == 0);
    WEIGHTCAST_ASSERT(::pipe2(answers.data(), O_CLOEXEC) == 0);
    child_ = ::fork();
    WEIGHTCAST_ASSERT(child_ >= 0);
    if (child_ == 0) {
        ::close(commands[1]);
        ::close(answers[0]);
        run_holder(open, kind, seed, bytes, hidden_bytes, commands[0], answers[1]);
    }
    ::close(commands[0]);
    ::close(answers[1]);
    commands_.reset(commands[1]);
    answers_.reset(answers[0]);
    Introduction introduction;
    WEIGHTCAST_ASSERT(receive_value(answers_.get(), introduction));
    peer_.address = introduction.address.data();
    peer_.incarnation = introduction.incarnation;
    key_.assign(introduction.key.data(), introduction.key.data() + introduction.key_bytes);
}

HolderProcess::~HolderProcess() {
    if (child_ > 0) kill();
}

void HolderProcess::command(char what) {
    send_value(commands_.get(), what);
    char answer = 0;
    WEIGHTCAST_ASSERT(receive_value(answers_.get(), answer) && answer == what);
}

void HolderProcess::revoke() { command('r'); }
void HolderProcess::truncate() { command('t'); }
void HolderProcess::unmap() { command('u'); }

void HolderProcess::kill() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = -1;
}

void HolderProcess::stop() {
    ::kill(child_, SIGSTOP);
    ::waitpid(child_, nullptr, WUNTRACED);
}

void HolderProcess::resume() { ::kill(child_, SIGCONT); }

std::vector<fabric::Completion> finish(fabric::Fabric& fabric, std::size_t count) {
    std::vector<fabric::Completion> all;
    std::array<fabric::Completion, 7> some{};
    for (;;) {
        const auto got = fabric.poll(some);
        all.insert(all.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(got));
        if (all.size() >= count) return all;
        if (got == 0) {
            ::pollfd wait{fabric.wait_fd(), POLLIN, 0};
            ::poll(&wait, fabric.wait_fd() < 0 ? 0 : 1, fabric.wait_ms());
        }
    }
}

}  // namespace weightcast::test
