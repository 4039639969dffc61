"""The house rules that a script can check: each function yields the findings of its rule."""
import re
from typing import Iterator, NamedTuple, Optional


class Finding(NamedTuple):
    path: str
    line: int
    text: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.text}"


LINE_COLUMNS_MAX = 100
SOURCE_LINES_MAX = 500
HEADER_LINES_MAX = 300
FUNCTION_LINES_MAX = 70

# Who may include whom. A module may always include itself and the public headers.
LIB_ARROWS = {
    "public": set(),
    "base": set(),
    "delta": {"base"},
    "model": {"base"},
    "plan": {"base", "model"},
    "fabric": {"base"},
    "registry": {"base", "model", "plan"},
    "agent": {"base", "model", "plan", "registry", "fabric", "delta"},
    "sim": {"base", "model", "plan", "registry", "fabric", "agent"},
}
TOOL_MAY_INCLUDE = {"transport/open.h", "lib/base/log.h"}
# The tools that are a registry, or only talk to one, include its headers.
REGISTRY_HEADERS = {"lib/registry/server.h", "lib/registry/client.h"}
REGISTRY_TOOLS = ("tools/p2p_meta", "tools/p2p_serve", "tools/p2p_ls", "tools/p2p_channel")
# p2p-doctor is thin over transport/doctor, which judges what verbs tells of devices.
DOCTOR_MAY_INCLUDE = {"transport/verbs/device.h", "transport/verbs/cuda_driver.h",
                      "transport/verbs/load_rdma.h", "transport/ucx/load_ucx.h"}
# p2p-plan is thin over plans and simulations, which have no public headers.
PLAN_TOOLS = ("tools/p2p_plan", "tools/plan_")
PLAN_MODULES = ("plan", "sim")
HEAVY_IN_HEADERS = ("boost/beast", "boost/json")  # Slow to compile: sources only.

INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)
NOT_CODE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<mark>[^(\s]*)\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'", re.DOTALL)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
SLEEP = re.compile(r"\b(sleep_for|sleep_until|usleep|nanosleep|sleep)\s*\(")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
MACHINE_PATH = re.compile(r"(?<![\w.*])/(work|root|home)/\w")
REGISTRY_HOST = re.compile(
    r"\b(pypi\.org|pythonhosted\.org|(deb|security|ftp)\.debian\.org|(archive|ports)\.ubuntu\.com"
    r"|registry\.npmjs\.org|proxy\.golang\.org|crates\.io)\b")


def is_cpp(path: str) -> bool:
    return path.endswith((".h", ".cpp"))


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def code_only(text: str) -> str:
    """The text with comments, literals and preprocessor lines blanked; line numbers stay."""
    def blank(match):
        return "\n" * match.group().count("\n") or " "
    return DIRECTIVE.sub(blank, NOT_CODE.sub(blank, text))


# includes

def resolve(include: str, includer: str, files: dict) -> Optional[str]:
    """The project file that a quoted include names, by the build's search order, or None."""
    folder = includer.rpartition("/")[0]
    for root in (folder, "lib", "lib/include", ""):
        candidate = f"{root}/{include}" if root else include
        if candidate in files:
            return candidate
    return None


def lib_module(path: str) -> Optional[str]:
    parts = path.split("/")
    if parts[0] != "lib" or len(parts) < 3:
        return None
    return "public" if parts[1] == "include" else parts[1]


def refusal(path: str, target: str) -> Optional[str]:
    """Why `path` may not include the project file `target`, or None if it may."""
    area, target_area = path.split("/")[0], target.split("/")[0]
    module, target_module = lib_module(path), lib_module(target)
    if area in ("tests", "perf"):
        return None
    if target_area in ("tests", "perf", "tools", "examples") and target_area != area:
        return f"{area}/ may not include {target_area}/"
    if module:
        if module not in LIB_ARROWS:
            return f"lib/{module} is not in the module map (tests/tidy/rules.py)"
        if target_module is None:
            return f"lib/ may not include {target_area}/"
        if target_module in LIB_ARROWS[module] | {module, "public"}:
            return None
        return f"{module} may not include {target_module}"
    if target_module == "public":
        return None
    if area == "transport":
        return transport_refusal(path, target, target_module)
    if area in ("tools", "examples"):
        if target_area == area or target in TOOL_MAY_INCLUDE:
            return None
        if target in REGISTRY_HEADERS and path.startswith(REGISTRY_TOOLS):
            return None
        if path.startswith(PLAN_TOOLS) and (
                target_module in PLAN_MODULES or target == "lib/base/clock.h"):
            return None
        if path.startswith("tools/p2p_doctor") and target.startswith("transport/doctor/"):
            return None
        return f"{area}/ may include public headers, transport/open.h and its own, not {target}"
    return None


def transport_refusal(path: str, target: str, target_module: Optional[str]) -> Optional[str]:
    if target_module in ("base", "fabric"):
        return None
    if target_module:
        return f"transport/ may include base and fabric only, not {target_module}"
    own, other = path.split("/")[1:-1], target.split("/")[1:-1]
    if own == ["doctor"] and target in DOCTOR_MAY_INCLUDE:
        return None
    if not path.startswith("transport/open.") and other and own != other:
        return f"one transport may not include another ({target})"
    return None


def check_includes(path: str, text: str, files: dict) -> Iterator[Finding]:
    for match in INCLUDE.finditer(text):
        line = line_of(text, match.start(1) if match.group(1) else match.start(2))
        quoted, system = match.groups()
        if quoted:
            target = resolve(quoted, path, files)
            if target is None:
                yield Finding(path, line, f'no project file "{quoted}"')
            elif (reason := refusal(path, target)) is not None:
                yield Finding(path, line, reason)
        elif path.endswith(".h"):
            if system.startswith(HEAVY_IN_HEADERS) and not system.endswith("/fwd.hpp"):
                yield Finding(path, line, f"<{system}> belongs in a source file")
            if lib_module(path) == "public" and not re.fullmatch(
                    r"[a-z_0-9]+|boost/outcome/.*", system):
                yield Finding(path, line, f"a public header may not include <{system}>")


def closure(path: str, files: dict) -> list:
    """`path` and every project file it includes, directly or not, sorted."""
    seen, todo = set(), [path]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for match in INCLUDE.finditer(files[current]):
            target = match.group(1) and resolve(match.group(1), current, files)
            if target:
                todo.append(target)
    return sorted(seen)


# sizes

def check_sizes(path: str, text: str) -> Iterator[Finding]:
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_COLUMNS_MAX:
            yield Finding(path, number, f"{len(line)} columns, at most {LINE_COLUMNS_MAX}")
    limit = HEADER_LINES_MAX if path.endswith(".h") else SOURCE_LINES_MAX
    if len(lines) > limit:
        yield Finding(path, limit + 1, f"{len(lines)} lines, at most {limit}")


def opens(before: str, parent: str) -> str:
    """What a brace opens, from the text since the last ; { or } and the scope it stands in."""
    if parent not in ("file", "scope"):
        return "inner"
    if re.search(r"\bnamespace\b|\bextern\s*$", before):
        return "scope"
    if re.search(r"\b(class|struct|union|enum)\b", before) and ")" not in before:
        return "scope"
    if re.search(r"\)[^=]*$", before):
        return "function"
    return "inner"


def functions(text: str) -> Iterator[tuple]:
    """(first line, lines) of each function body, by matching braces."""
    code = code_only(text)
    stack, start = [], 0
    for match in re.finditer(r"[{};]", code):
        symbol, position = match.group(), match.start()
        if symbol == "{":
            parent = stack[-1][0] if stack else "file"
            kind = opens(code[start:position], parent)
            stack.append((kind, line_of(code, position), start))
        elif symbol == "}" and stack:
            kind, first, opened_after = stack.pop()
            if re.match(r"\s*[,{]", code[match.end():match.end() + 200]):
                start = opened_after  # A braced member initializer: the body is still to come.
                continue
            if kind == "function":
                yield first, line_of(code, position) - first + 1
        start = match.end()


def check_functions(path: str, text: str) -> Iterator[Finding]:
    for first, lines in functions(text):
        if lines > FUNCTION_LINES_MAX:
            yield Finding(path, first, f"a function of {lines} lines, at most {FUNCTION_LINES_MAX}")


# words

def check_header(path: str, text: str) -> Iterator[Finding]:
    if not re.search(r"^#pragma once$", text, re.MULTILINE):
        yield Finding(path, 1, "no #pragma once")
    code = code_only(text)
    for match in re.finditer(r"\busing\s+namespace\b", code):
        yield Finding(path, line_of(code, match.start()), "using namespace in a header")


def check_sleep(path: str, text: str) -> Iterator[Finding]:
    code = code_only(text)
    for match in SLEEP.finditer(code):
        yield Finding(path, line_of(code, match.start()), "a test may not sleep: await the event")


def check_words(path: str, text: str) -> Iterator[Finding]:
    for pattern, reason in ((UNFINISHED, "an unfinished mark"),
                            (MACHINE_PATH, "a path of one machine"),
                            (REGISTRY_HOST, "a package registry's host name")):
        for match in pattern.finditer(text):
            yield Finding(path, line_of(text, match.start()), f"{reason}: {match.group()}")


def check_man_pages(files: dict) -> Iterator[Finding]:
    """Every tool that the build makes has a manual page."""
    for path, text in files.items():
        if not re.fullmatch(r"tools/(.*/)?meson\.build", path):
            continue
        for match in re.finditer(r"'(p2p-[a-z-]+)'", text):
            page = f"docs/man/{match.group(1)}.1"
            if page not in files:
                yield Finding(path, line_of(text, match.start()), f"no man page {page}")


def check_all(files: dict) -> Iterator[Finding]:
    """All findings for `files`, a map from path relative to the project's root to text."""
    yield from check_man_pages(files)
    for path, text in sorted(files.items()):
        if is_cpp(path):
            yield from check_includes(path, text, files)
            yield from check_functions(path, text)
        if is_cpp(path) or path.endswith((".py", "meson.build")) or path == "dev":
            yield from check_sizes(path, text)
        if path.endswith(".h"):
            yield from check_header(path, text)
        if path.startswith("tests/") and is_cpp(path):
            yield from check_sleep(path, text)
        if not path.startswith("tests/tidy/"):  # The rules and their bad examples name the words.
            yield from check_words(path, text)
