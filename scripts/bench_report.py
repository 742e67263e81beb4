"""How scripts/bench tells what it measured: on the terminal, and as JSON."""

import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path

from lab import ROOT

# Upper bounds of the buckets of a histogram, in milliseconds: each a quarter more than the one before.
BUCKETS_MS = [round(0.1 * 1.25**step, 3) for step in range(53)]


def percentile(sorted_values, percent):
    return sorted_values[max(0, math.ceil(len(sorted_values) * percent / 100) - 1)]


def spread(values, form):
    """The least, the median and the greatest."""
    return " / ".join(format(value, form) for value in (min(values), statistics.median(values), max(values)))


def print_table(title, head, rows, width=24):
    print(f"\n{title}\n  {'':<20}" + "".join(f"{name:>{width}}" for name in head))
    for name, *cells in rows:
        print(f"  {name:<20}" + "".join(f"{cell:>{width}}" for cell in cells), flush=True)


def histogram(values_ms):
    """How many are at most so many milliseconds, and more than the bucket before; without empty ends."""
    counts = dict.fromkeys([*BUCKETS_MS, 1e9], 0)
    bounds = iter(counts)
    bound = next(bounds)
    for value in sorted(values_ms):
        while value > bound:
            bound = next(bounds)
        counts[bound] += 1
    filled = [bound for bound, count in counts.items() if count]
    return [[bound, counts[bound]] for bound in counts if filled[0] <= bound <= filled[-1]]


def print_histogram(title, buckets):
    total, most = sum(count for _, count in buckets), max(count for _, count in buckets)
    print(f"\n{title}")
    for bound, count in buckets:
        print(f"  ≤ {bound:>9,.2f} ms {count:>8,} {100 * count / total:5.1f} % {'█' * round(40 * count / most)}")


class Report:
    """One run's figures and whether they are as good as they should be."""

    def __init__(self, mode, folder):
        self.folder = Path(folder)
        self.figures = {"mode": mode, "machine": machine(), "targets": []}

    def target(self, what, wanted, measured, is_met):
        self.figures["targets"].append({"what": what, "wanted": wanted, "measured": measured, "is_met": is_met})

    def print_targets(self):
        if self.figures["targets"]:
            print("\ntargets (by the median)")
        for target in self.figures["targets"]:
            print(f"  {'met    ' if target['is_met'] else 'NOT MET'} {target['what']}: {target['measured']}, wanted {target['wanted']}")

    def write(self):
        """As MODE.json; the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{self.figures['mode']}.json"
        file.write_text(json.dumps(self.figures, indent=1, ensure_ascii=False) + "\n")
        print(f"\nwritten to {file}")
        return file


def machine():
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory_kib = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return {
        "cpu": cpu[1] if cpu else "unknown",
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory_kib[1]) / 2**20),
        "system": f"{platform.system()} {platform.release()}",
        "revision": revision.stdout.strip(),
        "at": datetime.datetime.now(tz=datetime.timezone.utc).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
    }
