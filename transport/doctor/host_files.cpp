#include "transport/doctor/host_files.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <system_error>

namespace weightcast::transport::doctor {

namespace fs = std::filesystem;

std::string read_text(const std::string& path) {
    constexpr std::size_t kBytesMax = 64 << 10U;
    std::string text(kBytesMax, '\0');
    std::ifstream file(path, std::ios::binary);
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(std::max<std::streamsize>(file.gcount(), 0)));
    const auto last = text.find_last_not_of(" \t\n");
    text.resize(last == std::string::npos ? 0 : last + 1);
    return text;
}

std::optional<std::int64_t> read_number(const std::string& path) {
    const std::string text = read_text(path);
    const bool hexadecimal = text.rfind("0x", 0) == 0;
    const char* const begin = text.data() + (hexadecimal ? 2 : 0);
    std::int64_t number = 0;
    const auto [end, failure] =
        std::from_chars(begin, text.data() + text.size(), number, hexadecimal ? 16 : 10);
    if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return number;
}

bool exists(const std::string& path) {
    std::error_code ignored;
    return fs::exists(path, ignored);
}

std::vector<std::string> list_folder(const std::string& path) {
    std::vector<std::string> names;
    std::error_code failure;
    for (fs::directory_iterator i(path, failure), end; !failure && i != end; i.increment(failure)) {
        names.push_back(i->path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
}

}  // namespace weightcast::transport::doctor
