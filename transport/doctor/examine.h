// Tells what will work on a host and why not.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "transport/doctor/facts.h"

namespace weightcast::transport::doctor {

enum class Severity : std::uint8_t {
    ok,
    note,     // worth knowing
    warning,  // works, but not as it could
    error,    // does not work
};
const char* to_string(Severity severity) noexcept;

struct Finding {
    Severity severity = Severity::ok;
    std::string topic;   // "software", "device", "memory", "gpu", "network", "ucx"
    std::string text;    // a sentence without a full stop
    std::string advice;  // what to do; may be empty
};

// All findings, those of a topic together. Reads below `facts.roots`; reproducible.
std::vector<Finding> examine(const Facts& facts);

// Its parts, which append.
void examine_software(const Facts& facts, std::vector<Finding>& findings);
void examine_devices(const Facts& facts, std::vector<Finding>& findings);
void examine_memory(const Facts& facts, std::vector<Finding>& findings);
void examine_gpus(const Facts& facts, std::vector<Finding>& findings);
void examine_network(const Facts& facts, std::vector<Finding>& findings);
void examine_ucx(const Facts& facts, std::vector<Finding>& findings);

// True from this release of Linux on. Nothing is known of the release: false.
bool is_kernel(const Roots& roots, int major, int minor);

}  // namespace weightcast::transport::doctor
