"""Goal: each rule of rules.py finds what it is for and nothing else.
Method: small good and bad sources, given as text."""
import unittest

import rules

HEADER = "#pragma once\n"


def texts(files: dict) -> list:
    return [str(finding) for finding in rules.check_all(files)]


def tree(**extra) -> dict:
    """A small project in which one file of every module exists."""
    files = {f"lib/{module}/{module}.h": HEADER
             for module in ("base", "model", "plan", "registry", "fabric", "agent", "sim")}
    files |= {"lib/include/weightcast/pull.h": HEADER, "transport/open.h": HEADER,
              "transport/tcp/tcp.h": HEADER, "transport/shm/shm.h": HEADER,
              "transport/verbs/device.h": HEADER, "transport/verbs/link.h": HEADER,
              "transport/doctor/examine.h": HEADER, "lib/base/log.h": HEADER,
              "lib/registry/server.h": HEADER, "lib/base/clock.h": HEADER,
              "tools/cli.h": HEADER}
    return files | extra


def verdict(path: str, include: str) -> list:
    return texts(tree(**{path: f'#include "{include}"\n'}))


class Includes(unittest.TestCase):
    def test_arrows_hold_for_every_pair_of_modules(self):
        may = {"base": "", "model": "base", "plan": "base model", "fabric": "base",
               "registry": "base model plan", "agent": "base model plan registry fabric",
               "sim": "base model plan registry fabric agent"}
        for source, allowed in may.items():
            for target in may:
                found = verdict(f"lib/{source}/x.cpp", f"{target}/{target}.h")
                expected = target == source or target in allowed.split()
                self.assertEqual(found == [], expected, f"{source} includes {target}: {found}")

    def test_lib_never_includes_transport_or_tools(self):
        self.assertTrue(verdict("lib/agent/x.cpp", "transport/open.h"))
        self.assertTrue(verdict("lib/agent/x.cpp", "tools/cli.h"))

    def test_an_unknown_module_of_lib_is_refused(self):
        self.assertTrue(verdict("lib/new/x.cpp", "base/base.h"))

    def test_a_transport_sees_base_fabric_and_itself(self):
        for good in ("base/base.h", "fabric/fabric.h", "transport/tcp/tcp.h",
                     "transport/open.h", "weightcast/pull.h"):
            self.assertEqual(verdict("transport/tcp/x.cpp", good), [])
        for bad in ("model/model.h", "agent/agent.h", "transport/shm/shm.h"):
            self.assertEqual(len(verdict("transport/tcp/x.cpp", bad)), 1, bad)

    def test_open_names_every_transport(self):
        self.assertEqual(verdict("transport/open.cpp", "transport/shm/shm.h"), [])

    def test_the_doctor_sees_of_verbs_what_tells_of_devices(self):
        for good in ("transport/verbs/device.h", "transport/open.h", "transport/doctor/examine.h"):
            self.assertEqual(verdict("transport/doctor/x.cpp", good), [])
        for bad in ("transport/verbs/link.h", "transport/tcp/tcp.h", "model/model.h"):
            self.assertEqual(len(verdict("transport/doctor/x.cpp", bad)), 1, bad)
        self.assertEqual(len(verdict("transport/verbs/x.cpp", "transport/doctor/examine.h")), 1)
        self.assertEqual(verdict("tools/p2p_doctor.cpp", "transport/doctor/examine.h"), [])
        self.assertEqual(len(verdict("tools/p2p_doctor.cpp", "transport/verbs/device.h")), 1)
        self.assertEqual(len(verdict("tools/p2p_pull.cpp", "transport/doctor/examine.h")), 1)

    def test_the_planner_sees_plans_and_simulations(self):
        for path in ("tools/p2p_plan.cpp", "tools/plan_draw.cpp"):
            for good in ("plan/plan.h", "sim/sim.h", "base/clock.h"):
                self.assertEqual(verdict(path, good), [])
            self.assertEqual(len(verdict(path, "agent/agent.h")), 1)
        self.assertEqual(len(verdict("tools/p2p_pull.cpp", "sim/sim.h")), 1)
        self.assertEqual(verdict("lib/sim/x.cpp", "agent/agent.h"), [])
        self.assertEqual(len(verdict("lib/agent/x.cpp", "sim/sim.h")), 1)

    def test_tools_see_the_public_headers_only(self):
        for good in ("weightcast/pull.h", "transport/open.h", "tools/cli.h", "base/log.h"):
            self.assertEqual(verdict("tools/p2p_pull/main.cpp", good), [])
        for bad in ("agent/agent.h", "base/base.h", "registry/server.h"):
            self.assertEqual(len(verdict("tools/p2p_pull/main.cpp", bad)), 1, bad)
        self.assertEqual(verdict("tools/p2p_meta/main.cpp", "registry/server.h"), [])

    def test_tests_are_free_but_names_must_exist(self):
        self.assertEqual(verdict("tests/unit/x.cpp", "agent/agent.h"), [])
        self.assertIn("no project file", verdict("tests/unit/x.cpp", "agent/gone.h")[0])

    def test_a_public_header_stands_on_std_and_outcome(self):
        def public(line):
            return texts(tree(**{"lib/include/weightcast/x.h": HEADER + line}))
        self.assertEqual(public("#include <vector>\n#include <boost/outcome/result.hpp>\n"), [])
        self.assertEqual(len(public("#include <fmt/format.h>\n")), 1)
        self.assertEqual(len(public('#include "base/base.h"\n')), 1)

    def test_heavy_headers_stay_in_sources(self):
        line = "#include <boost/json/value.hpp>\n"
        self.assertEqual(len(texts({"lib/base/x.h": HEADER + line})), 1)
        self.assertEqual(texts({"lib/base/x.cpp": line}), [])
        self.assertEqual(texts({"lib/base/x.h": HEADER + "#include <boost/json/fwd.hpp>\n"}), [])

    def test_closure_follows_includes_once_each(self):
        files = {"lib/base/a.h": '#include "base/b.h"\n', "lib/base/b.h": '#include "base/a.h"\n'}
        self.assertEqual(rules.closure("lib/base/a.h", files), ["lib/base/a.h", "lib/base/b.h"])


class Sizes(unittest.TestCase):
    def test_a_line_may_have_100_columns(self):
        self.assertEqual(texts({"lib/base/x.cpp": "/" * 100 + "\n"}), [])
        self.assertEqual(len(texts({"lib/base/x.cpp": "/" * 101 + "\n"})), 1)

    def test_files_have_a_most(self):
        self.assertEqual(texts({"lib/base/x.cpp": "\n" * 500}), [])
        self.assertEqual(len(texts({"lib/base/x.cpp": "\n" * 501})), 1)
        self.assertEqual(texts({"lib/base/x.h": HEADER + "\n" * 299}), [])
        self.assertEqual(len(texts({"lib/base/x.h": HEADER + "\n" * 300})), 1)

    def test_a_function_may_have_70_lines(self):
        def source(lines, head="void f() {"):
            return {"lib/base/x.cpp": head + "\n" + "    g();\n" * (lines - 2) + "}\n"}
        self.assertEqual(texts(source(70)), [])
        for head in ("void f() {", "int C::f(int x) const noexcept {", "C::C() : a_(1), b_{2} {",
                     'TEST_CASE("a { brace") {', "auto f() -> int {",
                     "namespace a {\nclass B {\n  int f(char c = '{') {"):
            self.assertEqual(len(texts(source(80, head))), 1, head)

    def test_classes_tables_and_namespaces_may_be_longer(self):
        body = "    int x = 1;  // { unbalanced\n" * 90
        self.assertEqual(texts({"lib/base/x.cpp": "struct Long {\n" + body + "};\n"}), [])
        self.assertEqual(texts({"lib/base/x.cpp": "namespace n {\n" + body + "}\n"}), [])
        self.assertEqual(texts({"lib/base/x.cpp": "int t[] = {\n" + "    1,\n" * 90 + "};\n"}), [])

    def test_braces_in_literals_and_macros_do_not_count(self):
        code = '#define OPEN {\nvoid f() {\n    g("{", \'{\', R"x({{{)x", 1\'000);\n}\n'
        self.assertEqual(list(rules.functions(code)), [(2, 3)])


class Words(unittest.TestCase):
    def test_a_header_has_a_guard_and_no_using_namespace(self):
        self.assertEqual(len(texts({"lib/base/x.h": "int x;\n"})), 1)
        self.assertEqual(len(texts({"lib/base/x.h": HEADER + "using namespace std;\n"})), 1)
        self.assertEqual(texts({"lib/base/x.h": HEADER + "// using namespace std;\n"}), [])
        self.assertEqual(texts({"lib/base/x.cpp": "using namespace std::literals;\n"}), [])

    def test_tests_do_not_sleep(self):
        self.assertEqual(len(texts({"tests/unit/x.cpp": "std::this_thread::sleep_for(x);\n"})), 1)
        self.assertEqual(len(texts({"tests/unit/x.cpp": "sleep(1);\n"})), 1)
        self.assertEqual(texts({"lib/base/x.cpp": "std::this_thread::sleep_for(x);\n"}), [])

    def test_words_that_never_land(self):
        for word in ("TODO", "FIXME", "XXX", "/work/x", "/root/x", "/home/me", "pypi.org",
                     "deb.debian.org"):
            self.assertEqual(len(texts({"README.md": f"see {word} there\n"})), 1, word)
        for word in ("todos", "/tmp/XXXXXX", "lib/work/x", "mkdir ./root/x"):
            self.assertEqual(texts({"README.md": f"see {word} there\n"}), [], word)

    def test_every_tool_has_a_man_page(self):
        build = {"tools/meson.build": "executable('p2p-pull', 'p2p_pull.cpp')\n"}
        self.assertEqual(len(texts(build)), 1)
        self.assertEqual(texts(build | {"docs/man/p2p-pull.1": ".Dd\n"}), [])


if __name__ == "__main__":
    unittest.main()
