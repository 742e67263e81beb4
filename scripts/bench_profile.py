"""What scripts/bench tells of one run's costs: where the worker's CPU goes, and which statements Postgres executes."""

import re
import shutil
import subprocess

from bench_report import print_table
from bench_workers import FINALIZER, PROGRAMS, TURNS, Bench
from lab import Failed

STATEMENTS = """
SELECT calls, total_exec_time, total_plan_time, rows, wal_bytes, regexp_replace(query, '\\s+', ' ', 'g')
FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid AND datname = current_database()
ORDER BY total_exec_time + total_plan_time DESC LIMIT 15"""


def report_profile(lab, programs, options, report):
    if shutil.which("perf") is None:
        raise Failed("perf is not installed: apt-get install linux-perf")
    lab.new_database("settings").rows("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    lab.servers("restart-postgres")
    lab.read_urls()
    # Known only once the library is there.
    settings = lab.new_database("more_settings")
    settings.rows("ALTER SYSTEM SET pg_stat_statements.track_planning = on")
    settings.rows("SELECT pg_reload_conf()")
    worker = options.only or FINALIZER
    run, statements, profile = profiled(Bench(lab, programs), worker, options.events)
    print(f"{worker}: {run.rate:,.0f}/s while it is watched")
    print_table("CPU per event, µs", [*PROGRAMS, "sum"], [(worker, *(f"{us:,.0f}" for us in run.cpu_us.values()))], width=10)
    print(f"\nWAL: {run.wal_bytes:,.0f} bytes per event")
    print("\nPostgres, per event: µs in the statement · calls · rows · bytes of WAL")
    for calls, execution_ms, planning_ms, rows, wal_bytes, text in statements:
        us = (float(execution_ms) + float(planning_ms)) * 1000 / options.events
        each = [float(number) / options.events for number in (calls, rows, wal_bytes)]
        print(f"  {us:>8,.1f} {each[0]:>8.3f} {each[1]:>7.2f} {each[2]:>8,.0f}  {text.strip()[:110]}")
    for title, lines in profile.items():
        print(f"\nthe worker's CPU by {title}")
        print("\n".join(f"  {line}" for line in lines))
    report.figures |= {"worker": worker, "cpu_us": run.cpu_us, "wal_bytes": run.wal_bytes, "statements": statements, "profile": profile}


def profiled(bench, worker, events):
    database = bench.lab.new_database("profile")
    database.rows("CREATE EXTENSION pg_stat_statements")
    data = bench.lab.folder / "perf.data"

    def follow(started):
        command = ["perf", "record", "--quiet", "--freq=499", f"--pid={started.process.pid}", f"--output={data}"]
        bench.lab.start("perf", command, bench.environment)

    run = bench.drain(worker, TURNS["8KB"], events, database, follow)
    statements = database.rows(STATEMENTS)
    database.drop()
    return run, statements, {
        "program and library": perf_report(data, "dso", 8), "function": perf_report(data, "symbol", 40),
        "thread": perf_report(data, "comm", 10),
    }


def perf_report(data, key, lines):
    command = ["perf", "report", f"--input={data}", f"--sort={key}", "--stdio", "--no-children", "--percent-limit=0.4"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    found = [line.strip() for line in printed.splitlines() if re.match(r"\s+\d", line)]
    return [line[:140] for line in found[:lines]]
