#!/usr/bin/env python3
"""Draws what lab.py measured: plot.py CSV SVG. On the left the flat networks by size, on the right
the last receiver of the other scenarios, but of "slow" the median one, which need not wait for the
slow host. Times are over M/R, on a logarithmic scale."""

import csv
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as pyplot  # noqa: E402

HEADER_FLOOR = 1514 / 1448


def medians(rows, *keys):
    """{values of the keys: median of the last receiver over M/R} of runs in which all finished."""
    found = {}
    for row in rows:
        if row["last_of_least"]:
            column = "median_of_least" if row["scenario"] == "slow" else "last_of_least"
            found.setdefault(tuple(row[key] for key in keys), []).append(float(row[column]))
    return {key: statistics.median(values) for key, values in found.items()}


def scale(axes):
    """Logarithmic, with plain numbers."""
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.axhline(HEADER_FLOOR, color="black", linewidth=0.8, linestyle="dotted")
    axes.set_ylim(bottom=0.9)


def draw_flat(axes, rows, colours):
    values = medians(rows, "peer", "hosts")
    for peer, colour in colours.items():
        points = sorted((int(hosts), value) for (name, hosts), value in values.items()
                        if name == peer)
        if points:
            axes.plot(*zip(*points), marker="o", color=colour, label=peer)
    scale(axes)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("hosts")
    axes.set_ylabel("last receiver, × M/R")
    axes.set_title("flat")


def draw_others(axes, rows, colours):
    values = medians(rows, "scenario", "peer")
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    width = 0.8 / len(colours)
    for index, (peer, colour) in enumerate(colours.items()):
        for place, scenario in enumerate(scenarios):
            at = place + index * width
            if (scenario, peer) in values:
                axes.bar(at, values[(scenario, peer)], width, color=colour)
            elif any((row["scenario"], row["peer"]) == (scenario, peer) for row in rows):
                axes.text(at, 1, "×", color=colour, ha="center", va="bottom")  # Not all finished.
    scale(axes)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(scenarios))],
                    ["slow (median)" if name == "slow" else name for name in scenarios])
    axes.set_title("others; × where not all finished")


def main():
    with open(sys.argv[1], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    colours = {peer: f"C{index}" for index, peer in enumerate(peers)}
    flat = [row for row in rows if row["scenario"] == "flat"]
    others = [row for row in rows if row["scenario"] != "flat"]
    parts = [(draw, some) for draw, some in ((draw_flat, flat), (draw_others, others)) if some]
    figure, all_axes = pyplot.subplots(1, len(parts), figsize=(6 * len(parts), 4.5), squeeze=False)
    for axes, (draw, some) in zip(all_axes[0], parts):
        draw(axes, some, colours)
    figure.legend([pyplot.Line2D([], [], color=colour, marker="o") for colour in colours.values()],
                  peers, loc="lower center", ncols=len(peers), frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(sys.argv[2])


if __name__ == "__main__":
    main()
