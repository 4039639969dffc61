#!/usr/bin/env python3
"""Requests per second and p99 of p2p-meta under simulated agents, beside a bare Beast server that
gets the same requests and answers with as many bytes; both in one run, one after the other."""

import argparse
import json
import pathlib
import subprocess
import sys


def start(command):
    """Starts a server, and gives it with its URL once it says that it is usable."""
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    if not line:
        server.wait()
        sys.exit(f"registry_load: {command[0]} did not start")
    return server, json.loads(line)["registry"]


def measure(options, command, mode):
    server, url = start(command)
    try:
        load = [options.build / "perf/registry_load/registry-load", url, mode,
                str(options.agents), str(options.connections), str(options.seconds)]
        done = subprocess.run(load, stdout=subprocess.PIPE, text=True, check=True,
                              timeout=options.seconds + 120)
        return json.loads(done.stdout)
    finally:
        server.terminate()
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=pathlib.Path, help="the build directory")
    parser.add_argument("--agents", type=int, default=10000)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5, help="of each of the two, at most 60")
    options = parser.parse_args()
    if not 0 < options.seconds <= 60 or not 0 < options.connections <= options.agents <= 60000:
        parser.error("seconds must be up to 60, connections up to agents, agents up to 60000")
    meta = [options.build / "tools/p2p-meta", "--listen", "127.0.0.1:0", "--json",
            "--lease-ms", "600000"]
    registry = measure(options, meta, "registry")
    hello = measure(options, [options.build / "perf/registry_load/registry-hello",
                              str(int(registry["reply_bytes"]))], "hello")
    print(json.dumps({
        "agents": options.agents,
        "connections": options.connections,
        "registry": registry,
        "hello": hello,
        "ratio_per_second": round(registry["per_second"] / hello["per_second"], 3),
        "ratio_p99": round(registry["p99_ms"] / hello["p99_ms"], 3),
    }, indent=2))


if __name__ == "__main__":
    main()
