// Runs a fuzz target without libFuzzer: bounded and seeded, so that every run can be repeated. Each
// input depends on (seed, index) only; when one ends the program, its index is printed.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "base/random.h"
#include "tests/kit/fuzz.h"

extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using weightcast::Random;

constexpr std::size_t kInputBytesMax = 65536;
constexpr unsigned kInputSecondsMax = 20;

char current_input[96] = "no input";

void print_current_input() {
    const std::size_t bytes = std::strlen(current_input);
    if (::write(STDERR_FILENO, current_input, bytes) < 0) return;
}

void on_signal(int number) {
    print_current_input();
    std::signal(number, SIG_DFL);
    std::raise(number);
}

void watch_for_death() {
    if (__sanitizer_set_death_callback != nullptr) {
        __sanitizer_set_death_callback(print_current_input);
    } else {
        std::signal(SIGSEGV, on_signal);
    }
    std::signal(SIGABRT, on_signal);
    std::signal(SIGALRM, on_signal);
}

char interesting_byte(Random& random) {
    constexpr std::string_view kBytes("\0\x01\x7f\x80\xff\"\\{}[],:0-19/. e", 21);
    return kBytes[random.below(kBytes.size())];
}

void overwrite_integer(std::string& input, std::size_t at, Random& random) {
    constexpr std::array<std::uint64_t, 8> kValues{0,           1,     0x7fffffff,  0xffffffff,
                                                   1ULL << 32U, ~0ULL, ~0ULL >> 1U, 1ULL << 63U};
    std::uint64_t value = kValues[random.below(kValues.size())];
    const std::size_t width = std::size_t{1} << random.below(4);
    for (std::size_t i = 0; i < width && at + i < input.size(); ++i, value >>= 8U) {
        input[at + i] = static_cast<char>(value & 0xffU);
    }
}

void overwrite_number_text(std::string& input, std::size_t at, Random& random) {
    constexpr std::array<std::string_view, 6> kTexts{
        "18446744073709551615", "18446744073709551616", "9223372036854775808", "-1", "1e3", "0"};
    const std::size_t digit = input.find_first_of("0123456789", at);
    if (digit == std::string::npos) return;
    const std::size_t end = std::min(input.find_first_not_of("0123456789", digit), input.size());
    input.replace(digit, end - digit, kTexts[random.below(kTexts.size())]);
}

void mutate_once(std::string& input, const std::vector<std::string>& seeds, Random& random) {
    const std::size_t at = random.below(input.size() + 1);
    const std::size_t left = input.size() - at;
    const std::size_t run = left == 0 ? 0 : 1 + random.below(std::min<std::size_t>(left, 64));
    switch (random.below(9)) {
        case 0:
            if (left > 0) input[at] = static_cast<char>(input[at] ^ (1 << random.below(8)));
            return;
        case 1:
            if (left > 0) input[at] = interesting_byte(random);
            return;
        case 2:
            input.insert(at, 1, interesting_byte(random));
            return;
        case 3:
            input.erase(at, run);
            return;
        case 4:
            input.insert(at, input.substr(at, run));
            return;
        case 5:
            overwrite_integer(input, at, random);
            return;
        case 6:
            overwrite_number_text(input, at, random);
            return;
        case 7:
            input.resize(at);
            return;
        default: {
            const std::string& other = seeds[random.below(seeds.size())];
            const std::size_t from = random.below(other.size() + 1);
            input.insert(at, other.substr(from, 1 + random.below(64)));
            return;
        }
    }
}

void run_input(const std::string& input) {
    ::alarm(kInputSecondsMax);
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
    ::alarm(0);
}

void run_mutated(std::uint64_t count, std::uint64_t seed) {
    const std::vector<std::string> seeds = fuzz_seeds();
    for (std::uint64_t i = 0; i < count; ++i) {
        std::snprintf(current_input, sizeof current_input, "fuzz: input %llu of seed %llu\n",
                      static_cast<unsigned long long>(i), static_cast<unsigned long long>(seed));
        Random random(seed * 0x9e3779b97f4a7c15ULL + i);
        std::string input = seeds[i % seeds.size()];
        // The seeds themselves come first, then mutations of them.
        const std::uint64_t mutations = i < seeds.size() ? 0 : 1 + random.below(6);
        for (std::uint64_t m = 0; m < mutations; ++m) mutate_once(input, seeds, random);
        if (input.size() > kInputBytesMax && mutations > 0) input.resize(kInputBytesMax);
        run_input(input);
    }
}

bool run_file(const char* path) {
    std::snprintf(current_input, sizeof current_input, "fuzz: input file %.60s\n", path);
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        std::fprintf(stderr, "fuzz: cannot open %s\n", path);
        return false;
    }
    run_input(std::string(std::istreambuf_iterator<char>(file), {}));
    return true;
}

bool write_seeds(const std::string& directory) {
    std::size_t index = 0;
    for (const std::string& seed : fuzz_seeds()) {
        std::ofstream file(directory + "/seed-" + std::to_string(index++), std::ios::binary);
        file.write(seed.data(), static_cast<std::streamsize>(seed.size()));
        if (!file.flush()) {
            std::fprintf(stderr, "fuzz: cannot write into %s\n", directory.c_str());
            return false;
        }
    }
    return true;
}

bool parse_number(std::string_view text, std::uint64_t& value) {
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    return ec == std::errc() && end == text.data() + text.size();
}

}  // namespace

int main(int argc, char** argv) {
    watch_for_death();
    const std::string_view first = argc > 1 ? argv[1] : "";
    if (first == "--seeds" && argc == 3) return write_seeds(argv[2]) ? 0 : 1;
    if (first == "--file" && argc > 2) {
        return std::all_of(argv + 2, argv + argc, run_file) ? 0 : 1;
    }
    std::uint64_t count = 0;
    std::uint64_t seed = 1;
    const bool usable = argc >= 2 && argc <= 3 && parse_number(first, count) &&
                        (argc < 3 || parse_number(argv[2], seed));
    if (!usable) {
        std::fprintf(stderr, "usage: %s COUNT [SEED] | --seeds DIRECTORY | --file PATH...\n",
                     argv[0]);
        return 2;
    }
    run_mutated(count, seed);
    return 0;
}
