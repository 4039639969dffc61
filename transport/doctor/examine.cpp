#include "transport/doctor/examine.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <charconv>
#include <string_view>

#include "transport/doctor/host_files.h"

namespace weightcast::transport::doctor {
namespace {

constexpr std::uint64_t kMebibyte = 1ULL << 20U;
// A host that may lock less than this cannot register weights worth the name.
constexpr std::uint64_t kLockedBytesMin = 64 * kMebibyte;

std::string text_of(const std::optional<std::uint64_t>& limit) {
    if (!limit) return "unlimited";
    return *limit < kMebibyte ? fmt::format("{} KiB", *limit >> 10U)
                              : fmt::format("{} MiB", *limit / kMebibyte);
}

std::uint64_t memory_bytes(const Roots& roots) {
    const std::string text = read_text(roots.proc + "/meminfo");
    constexpr std::string_view kName = "MemTotal:";
    const auto at = text.find(kName);
    if (at == std::string::npos) return 0;
    const auto digits = text.find_first_of("0123456789", at);
    if (digits == std::string::npos) return 0;
    std::uint64_t kibibytes = 0;
    std::from_chars(text.data() + digits, text.data() + text.size(), kibibytes);
    return kibibytes << 10U;
}

void examine_locking(const Facts& facts, std::vector<Finding>& findings) {
    const auto& limit = facts.memlock_soft;
    const std::string text = fmt::format("memory that may be locked (RLIMIT_MEMLOCK): {}, hard {}",
                                         text_of(limit), text_of(facts.memlock_hard));
    if (facts.may_lock || !limit) {
        findings.push_back(
            {Severity::ok, "memory", text + (limit ? "; CAP_IPC_LOCK lifts it" : ""), ""});
        return;
    }
    const bool raisable = !facts.memlock_hard || *facts.memlock_hard > *limit;
    const std::string advice = fmt::format(
        "{}for good: `memlock unlimited` in /etc/security/limits.d, LimitMEMLOCK=infinity in a "
        "systemd unit, `docker run --ulimit memlock=-1`",
        raisable ? "for this shell: `ulimit -l $(ulimit -H -l)`; " : "");
    if (*limit < kLockedBytesMin) {
        findings.push_back(
            {Severity::error, "memory", text + ": too little to register weights", advice});
    } else if (*limit < memory_bytes(facts.roots)) {
        findings.push_back(
            {Severity::warning, "memory", text + ": larger weights cannot be registered", advice});
    } else {
        findings.push_back({Severity::ok, "memory", text, ""});
    }
}

void examine_fork(const Facts& facts, std::vector<Finding>& findings) {
    switch (facts.rdma.fork) {
        case ForkSafety::unneeded:
            findings.push_back(
                {Severity::ok, "memory", "a process may fork: the kernel copies pinned pages", ""});
            break;
        case ForkSafety::enabled:
            findings.push_back(
                {Severity::ok, "memory", "a process may fork: libibverbs was told so", ""});
            break;
        case ForkSafety::disabled:
            findings.push_back({Severity::note, "memory",
                                "a process that forks may lose its registered pages to the child",
                                "set RDMAV_FORK_SAFE=1, or run Linux 5.12 or newer"});
            break;
        case ForkSafety::unknown:
            break;
    }
}

void examine_pages(const Facts& facts, std::vector<Finding>& findings) {
    const std::string folder = facts.roots.sys + "/kernel/mm/hugepages";
    std::vector<std::string> reserved;
    for (const std::string& name : list_folder(folder)) {
        const std::string size = fmt::format("{}/{}/", folder, name);
        const auto pages = read_number(size + "nr_hugepages").value_or(0);
        const auto free = read_number(size + "free_hugepages").value_or(0);
        if (pages > 0) {
            reserved.push_back(
                fmt::format("{} of {} ({} free)", pages, name.substr(name.find('-') + 1), free));
        }
    }
    const std::string thp = read_text(facts.roots.sys + "/kernel/mm/transparent_hugepage/enabled");
    const std::string text = fmt::format(
        "huge pages: {}; transparent ones: {}",
        reserved.empty() ? "none reserved" : fmt::format("{}", fmt::join(reserved, ", ")),
        thp.empty() ? "not in this kernel" : thp);
    if (thp.find("[never]") != std::string::npos && reserved.empty()) {
        findings.push_back({Severity::note, "memory", text,
                            "small pages make registering slow: `echo madvise > "
                            "/sys/kernel/mm/transparent_hugepage/enabled`"});
        return;
    }
    findings.push_back({Severity::ok, "memory", text, ""});
}

}  // namespace

const char* to_string(Severity severity) noexcept {
    switch (severity) {
        case Severity::ok:
            return "ok";
        case Severity::note:
            return "note";
        case Severity::warning:
            return "warning";
        case Severity::error:
            return "error";
    }
    return "unknown";
}

bool is_kernel(const Roots& roots, int major, int minor) {
    const std::string release = read_text(roots.proc + "/sys/kernel/osrelease");
    const char* const end = release.data() + release.size();
    int has_major = 0;
    int has_minor = 0;
    const auto first = std::from_chars(release.data(), end, has_major);
    if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return false;
    std::from_chars(first.ptr + 1, end, has_minor);
    return has_major != major ? has_major > major : has_minor >= minor;
}

void examine_software(const Facts& facts, std::vector<Finding>& findings) {
    const std::string release = read_text(facts.roots.proc + "/sys/kernel/osrelease");
    findings.push_back({Severity::ok, "software",
                        fmt::format("weightcast {}, Linux {}", WEIGHTCAST_VERSION,
                                    release.empty() ? "of unknown release" : release),
                        ""});
    if (!facts.rdma.version.empty()) {
        findings.push_back({Severity::ok, "software", facts.rdma.version, ""});
    }
}

void examine_memory(const Facts& facts, std::vector<Finding>& findings) {
    examine_locking(facts, findings);
    examine_fork(facts, findings);
    examine_pages(facts, findings);
}

void examine_ucx(const Facts& facts, std::vector<Finding>& findings) {
    if (!facts.ucx.built_in) {
        findings.push_back({Severity::note, "ucx", "this program was built without UCX", ""});
        return;
    }
    if (!facts.ucx.why_none.empty()) {
        findings.push_back({Severity::note, "ucx", facts.ucx.why_none,
                            "install libucx0 (Debian, Ubuntu) or ucx (Fedora) to use it"});
        return;
    }
    findings.push_back(
        {Severity::ok, "ucx",
         fmt::format("UCX {}: {}", facts.ucx.version, fmt::join(facts.ucx.transports, " ")), ""});
}

std::vector<Finding> examine(const Facts& facts) {
    std::vector<Finding> findings;
    examine_software(facts, findings);
    examine_devices(facts, findings);
    examine_network(facts, findings);
    examine_memory(facts, findings);
    examine_gpus(facts, findings);
    examine_ucx(facts, findings);
    return findings;
}

}  // namespace weightcast::transport::doctor
