// Small files and folders of sysfs and procfs. Nothing here fails: what cannot be read is empty.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace weightcast::transport::doctor {

// Without the white space at its end; at most 64 KiB of it.
std::string read_text(const std::string& path);
// Nothing if the text is not a whole number in decimal or, with 0x before it, hexadecimal.
std::optional<std::int64_t> read_number(const std::string& path);
bool exists(const std::string& path);
// Names, sorted.
std::vector<std::string> list_folder(const std::string& path);

}  // namespace weightcast::transport::doctor
