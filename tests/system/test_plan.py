"""Goal: p2p-plan tells the same twice, names what is wrong, and draws well-formed pictures. Method:
the real program with fleets of a few dozen.
"""
import json
import xml.etree.ElementTree

from kit import SystemTest

FLEET = ("--receivers", "31", "--port", "1GB/s", "--bytes", "512M", "--blocks", "128")


class Planning(SystemTest):
    def test_a_fleet_is_near_its_bound_and_the_same_each_time(self):
        first = self.run_program("p2p-plan", "simulate", *FLEET, "--json")
        self.assertEqual(first.wait_end(), 0, first.evidence())
        self.assertEqual(first.lines, self.run_program("p2p-plan", "simulate", *FLEET,
                                                       "--json").lines)
        (simulation,) = first.events()
        self.assertEqual(simulation["receivers"], 31)
        self.assertEqual(simulation["unfinished"], 0)
        self.assertEqual(simulation["limited_by"], "depth")
        self.assertAlmostEqual(simulation["bound_s"], 132 * 0.004, delta=1e-6)
        self.assertLess(simulation["times_from_plan"]["plain"]["ratio"], 1.1)
        self.assertLess(simulation["source_copies"], 1.2)

    def test_people_get_a_table(self):
        lines = self.run_program("p2p-plan", "simulate", *FLEET, "--joiners", "0.2").lines
        self.assertTrue(any(line.startswith("joiners") for line in lines), lines)
        self.assertTrue(any(line.startswith("registry:") for line in lines), lines)

    def test_a_plan_gives_everybody_a_parent_in_each_stripe(self):
        topology = self.folder / "topology.json"
        topology.write_text(json.dumps({
            "racks": [{"name": "r", "count": 2, "uplink": "4GB/s"}],
            "hosts": [{"name": "h", "per_rack": 4}],
            "ranks": [{"name": "g", "per_host": 2, "port": "1GB/s"}],
            "sources": ["r0.h0.g0"]}))
        events = self.run_program("p2p-plan", "show", "--bytes", "1G", "--topology", topology,
                                  "--stripes", "4", "--json").events()
        edges = [event for event in events if event["event"] == "edge"]
        self.assertEqual(len(edges), 15 * 8)  # 4 for each of two ranks a host
        self.assertEqual(len({(edge["stripe"], edge["rank"]) for edge in edges}), len(edges))
        self.assertEqual(events[-1]["event"], "plan")
        self.assertEqual(events[-1]["stripes"], 8)

    def test_pictures_are_well_formed(self):
        trees, time_space = self.folder / "trees.svg", self.folder / "time_space.svg"
        program = self.run_program("p2p-plan", "show", *FLEET, "--svg", trees, "--time-space",
                                   time_space)
        self.assertEqual(program.wait_end(), 0, program.evidence())
        circles = xml.etree.ElementTree.parse(trees).getroot().findall("{*}circle")
        self.assertEqual(len(circles), 2 * 32)
        paths = xml.etree.ElementTree.parse(time_space).getroot().findall("{*}path")
        self.assertGreater(len(paths), 16)

    def test_wrong_command_lines_exit_with_2(self):
        size = ("simulate", "--bytes", "1G")
        for arguments, text in (((), "simulate"),
                                (("frobnicate",), "frobnicate"),
                                (("show",), "--bytes"),
                                (("simulate", "--bytes", "1X", "--receivers", "3"), "--bytes"),
                                (size, "--receivers"),
                                ((*size, "--receivers", "3", "--port", "fast"), "--port"),
                                ((*size, "--receivers", "3"), "--port"),
                                ((*size, "--receivers", "3", "--latency", "5"), "--latency"),
                                ((*size, "--receivers", "3", "--deaths", "2"), "fraction"),
                                ((*size, "--receivers", "3", "--stripes", "99"), "stripes"),
                                ((*size, "--receivers", "3", "--svg", "x"), "--svg"),
                                ((*size, "--topology", self.folder / "none"), "none")):
            with self.subTest(arguments=arguments):
                self.assert_fails(self.start("p2p-plan", *arguments), text, status=2)
