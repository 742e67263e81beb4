"""What scripts/bench measures of the pure stages: instructions, which do not depend on what else the machine does."""

import re
import subprocess
import shutil

from bench_report import print_table
from lab import ROOT, TARGET, Failed, build

# As benches/micro.rs names them, and the function in which each spends its instructions.
CASES = {
    "decode_8_kb": "decode", "decode_50_kb": "decode", "finalize_8_kb": "finalize", "finalize_50_kb": "finalize",
    "sign_500_bytes": "sign", "vet": "vet",
}
CALLS = 20
# More instructions than this, of those of the base, are a step back.
ALLOWED = 1.02


def report_micro(options, report):
    if shutil.which("valgrind") is None:
        raise Failed("valgrind is not installed: apt-get install valgrind")
    counts = {}
    if options.base:
        counts["base"] = count_all(build_base(options.base))
    counts["here"] = count_all(build("--bench=micro", "--release")["micro"])
    ratios = {case: counts["here"][case] / counts["base"][case] for case in CASES} if options.base else {}
    rows = [(case, *(f"{found[case]:,}" for found in counts.values()), *([f"{ratios[case]:.3f}"] if ratios else [])) for case in CASES]
    print_table("instructions a call", [*counts, *(["here / base"] if ratios else [])], rows, width=16)
    report.figures["instructions"] = counts
    for case, ratio in ratios.items():
        report.target(f"instructions of {case}, of those of {options.base}", f"at most {ALLOWED:.0%}", f"{ratio:.1%}", ratio <= ALLOWED)
    report.print_targets()
    return all(ratio <= ALLOWED for ratio in ratios.values())


def build_base(revision):
    """The benchmark of another revision; what both depend on is compiled once."""
    folder = TARGET / "bench-base"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, stdout=subprocess.PIPE)
    if archive.returncode != 0:
        raise Failed(f"git knows no revision {revision!r}")
    subprocess.run(["tar", "--extract", f"--directory={folder}"], input=archive.stdout, check=True)
    if not (folder / "benches" / "micro.rs").exists():
        raise Failed(f"{revision} has no benches/micro.rs to compare with")
    return build("--bench=micro", "--release", f"--target-dir={TARGET}", folder=folder)["micro"]


def count_all(program):
    return {case: count(program, case, function) for case, function in CASES.items()}


def count(program, case, function):
    """Instructions of one call, what it calls included."""
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no",
        f"--toggle-collect=*measured_{function}*", program, "--bench", "--sample-count=1", f"--sample-size={CALLS}", "--exact", f"micro::{case}",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or collected is None or int(collected[1]) == 0:
        raise Failed(f"callgrind counted nothing of {case}: {done.stderr[-2000:]}")
    return round(int(collected[1]) / CALLS)
