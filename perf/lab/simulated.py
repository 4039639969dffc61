"""The lab's cases as p2p-plan simulates them, to hold the simulator against what was measured.

A simulated receiver starts at once and has no processor: what the lab takes longer is start-up, and
what a busy machine costs."""

import json
import subprocess

from network import HEADER_FLOOR

NAME = "simulated"
LATENCY, METADATA_DELAY = "100us", "2ms"


def fates(case, receivers):
    """Options for what happens to one of the receivers."""
    one = f"{1 / receivers:.6f}"
    return {
        "kill": ["--deaths", one, "--death-at", "0.5", "--detection", "10ms"],
        "cable": ["--deaths", one, "--death-at", "0.5", "--detection", "1s"],
        "joiner": ["--joiners", one],
        "slow": ["--stragglers", one, "--straggler-rate", "0.25"],
        "racks": ["--racks", case.racks, "--uplink", f"{case.rate_mbit / HEADER_FLOOR:.3f}Mbit/s"],
    }.get(case.scenario, [])


def simulate(case, options, number):
    """What p2p-plan says of a case: values of a report.Sample."""
    receivers = case.hosts - 1 + (case.scenario == "joiner")
    command = [options.build / "tools/p2p-plan", "simulate", "--json", "--bytes", options.bytes,
               "--receivers", receivers, "--chunk-bytes", case.chunk_bytes,
               "--port", f"{case.rate_mbit / HEADER_FLOOR:.3f}Mbit/s", "--latency", LATENCY,
               "--metadata-delay", METADATA_DELAY, "--seed", options.seed + number,
               *fates(case, receivers)]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        return {"note": done.stderr.strip()}
    told = json.loads(done.stdout)
    plain, joiner = told["times"]["plain"], told["times"].get("joiners")
    slow = told["times"].get("stragglers")
    special = {"joiner": joiner and joiner["max_s"] / case.least_s(options.bytes),
               "slow": slow and slow["max_s"] / case.least_s(options.bytes)}
    others = [plain["median_s"]] * (plain["count"] - 1) + [plain["max_s"]]
    return {"times_s": others + ([slow["max_s"]] if slow else []),
            "receivers": len(others) + (1 if slow else 0),
            "sent_bytes": told["source_copies"] * HEADER_FLOOR * options.bytes,
            "special": special.get(case.scenario)}
