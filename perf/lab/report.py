"""Samples of the lab's runs, and the tables, the CSV and the plot that are made of them."""

import csv
import functools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from network import HEADER_FLOOR

HERE = pathlib.Path(__file__).resolve().parent
SPECIAL = {  # Title of the column that only this scenario has, and what divides its values.
    "joiner": ("joiner from its start, × M/R", 1),
    "slow": ("slow one, × its floor", 4 * HEADER_FLOOR),
    "racks": ("into a rack at most, × M", 1)}
COLUMNS = ["scenario", "peer", "hosts", "rate_mbit", "bytes", "round", "last_s", "last_of_least",
           "last_of_floor", "median_of_least", "special", "first_s", "publisher_copies",
           "finished", "receivers", "note"]


class Sample:
    """One run. `times_s` are of the receivers that finished, in any order; `note` is why others did
    not, or why the run did not even begin; `special` is for the column that SPECIAL names."""

    times_s, receivers, note, first_s, special, sent_bytes = (), 0, "", None, None, None

    def __init__(self, case, peer, number, total_bytes, values):
        self.case, self.peer, self.number, self.total_bytes = case, peer, number, total_bytes
        self.least_s = case.least_s(total_bytes)
        self.__dict__.update(values)

    def is_complete(self):
        return 0 < len(self.times_s) == self.receivers

    def last(self):
        """Of the last receiver, over M/R; None if not all finished."""
        return max(self.times_s) / self.least_s if self.is_complete() else None

    def last_of_floor(self):
        return self.last() / HEADER_FLOOR if self.is_complete() else None

    def median(self):
        return statistics.median(self.times_s) / self.least_s if self.times_s else None

    def copies_sent(self):
        return None if self.sent_bytes is None else self.sent_bytes / self.total_bytes

    def finished(self):
        return f"{len(self.times_s)} of {self.receivers}"

    def describe(self):
        special = f", special {self.special:.2f}" if self.special else ""
        last = f"{self.last():.3f} M/R" if self.is_complete() else "not all"
        sent = f", publisher sent {self.copies_sent():.2f} M" if self.sent_bytes else ""
        return f"{last}{special}{sent}, finished {self.finished()} {self.note}".rstrip()

    def row(self):
        case = self.case
        values = [max(self.times_s) if self.is_complete() else None, self.last(),
                  self.last_of_floor(), self.median(),
                  self.special, self.first_s, self.copies_sent()]
        return [case.scenario, self.peer, case.hosts, case.rate_mbit, self.total_bytes,
                self.number + 1, *("" if value is None else f"{value:.4f}" for value in values),
                len(self.times_s), self.receivers, self.note]


def spread(values, digits=2):
    """The median, and what it lies between."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    told = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return told
    return f"{told} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table_row(samples, special):
    of = [
        spread([sample.last() for sample in samples]),
        spread([sample.last_of_floor() for sample in samples]),
        spread([sample.median() for sample in samples]),
    ]
    if special:
        of.append(spread([sample.special / special[1] for sample in samples if sample.special]))
    of += [spread([sample.first_s for sample in samples]),
           spread([sample.copies_sent() for sample in samples])]
    worst = min(samples, key=lambda sample: (len(sample.times_s), not sample.note))
    return of + [worst.finished() + (f": {worst.note}" if worst.note else "")]


def print_tables(titles, cases, samples):
    for scenario in dict.fromkeys(case.scenario for case in cases):
        special = SPECIAL.get(scenario)
        heads = ["peer", "hosts", "Mbit/s", "last, × M/R", "× floor", "median, × M/R",
                 *([special[0]] if special else []), "first bytes at last, s",
                 "publisher sent, × M", "finished"]
        print(f"\n## {scenario}: {titles[scenario]}\n\n| {' | '.join(heads)} |\n"
              f"|{'---|' * len(heads)}")
        for case in (case for case in cases if case.scenario == scenario):
            names = [sample.peer for sample in samples if sample.case is case]
            for name in dict.fromkeys(names):
                own = [one for one in samples if one.case is case and one.peer == name]
                row = [name, str(case.hosts), f"{case.rate_mbit:g}", *table_row(own, special)]
                print(f"| {' | '.join(row)} |")


def write_csv(path, samples):
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows(sample.row() for sample in samples)


@functools.cache
def python_with(module):
    """A Python that has the module: this one, or the distribution's, whose packages it may be."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python) and subprocess.run(
                [python, "-c", f"import {module}"], capture_output=True,
                check=False).returncode == 0:
            return python
    return None


def plot(path, samples):
    """Draws the samples with plot.py; what to tell of it."""
    python = python_with("matplotlib")
    if not python:
        return "no plot: matplotlib is not installed (package python3-matplotlib)"
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        write_csv(file.name, samples)
        subprocess.run([python, HERE / "plot.py", file.name, path], check=True)
    return f"plot: {path}"
