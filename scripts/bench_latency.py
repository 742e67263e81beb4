"""What scripts/bench measures of latency: at fixed rates, and over a long time.

Latency is the time from when an event was due to be published until its webhook arrived, whoever was late: a pause
counts for all events that were due in it."""

import statistics
import time

from bench_report import histogram, percentile, print_table, spread
from bench_workers import FINALIZER, RANDOM, TURNS, Bench, Sink, Worker, load_average
from lab import Failed, wait_for

RATES = [100, 250, 500, 1_000, 2_000, 4_000]
# At so many events a second, p50 and p99 should be below so many milliseconds.
TARGETS = {100: (3, 8), 1_000: (5, 20)}
WARM_UP_SECONDS = 2
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "max": 100}
LATENCY_HEAD = list(PERCENTILES)


def measure_latency(bench, rate, seconds, worker=FINALIZER, kinds=("note",)):
    """Milliseconds, sorted, at the first of the receivers. Every receiver hears of every session."""
    sinks = [Sink(bench, kind) for kind in kinds]
    tested = Worker(bench, worker, sinks[0].url)
    for sink in sinks[1:]:
        tested.finalizer.ask("endpoints", "add", sink.url, "--owner", "all")
    tested.start()
    tested.wait_until_consuming()
    count = rate * (seconds + WARM_UP_SECONDS)
    printed, _ = bench.run_tool("load", bench.lab.amqp_url, RANDOM, TURNS["8KB"], count, rate)
    due = {session_id: int(at) for session_id, at in map(str.split, printed.splitlines())}
    wait_for(lambda: len(sinks[0].notes()) >= count, 60, "every session's webhook to arrive")
    arrived = sinks[0].notes()
    if len(arrived) != count or dict(arrived).keys() != due.keys():
        raise Failed(f"{count} sessions, and {len(arrived)} webhooks of {len(dict(arrived))} sessions")
    bench.require_empty_queues()
    if len(kinds) == 1:
        wait_for(lambda: tested.found("delivered") == count, 30, "every delivery to be recorded")
        tested.require_all(count, len(arrived))
    # A graceful end would wait for a receiver that hangs.
    tested.process.kill()
    for sink in sinks:
        sink.process.kill()
    tested.database.drop()
    counted = min(due.values()) + WARM_UP_SECONDS * 1_000_000
    return sorted((at - due[session_id]) / 1000 for session_id, at in arrived if due[session_id] >= counted)


def summary(runs):
    return {name: [percentile(run, percent) for run in runs] for name, percent in PERCENTILES.items()}


def latency_cells(runs):
    return [spread(values, ",.1f") for values in summary(runs).values()]


def report_latency(lab, programs, options, report):
    bench = Bench(lab, programs)
    rates = [options.rate] if options.rate else RATES
    runs = {rate: [] for rate in rates}
    for _ in range(options.rounds):
        for rate in rates:
            load = load_average()
            runs[rate].append(measure_latency(bench, rate, options.seconds))
            p50, p99 = (percentile(runs[rate][-1], percent) for percent in (50, 99))
            print(f"  {rate:,}/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms; the machine's load before it {load:.1f}", flush=True)
    print_table(f"ms from when an event is due to be published to its webhook's arrival, {options.seconds} s each:"
                f" min / median / max of {options.rounds}", LATENCY_HEAD,
                [(f"{rate:,}/s", *latency_cells(measured)) for rate, measured in runs.items()])
    report.figures |= {"seconds": options.seconds, "rates": {
        rate: summary(measured) | {"histogram": histogram([ms for run in measured for ms in run])} for rate, measured in runs.items()}}
    for rate in rates:
        for percent, limit_ms in zip((50, 99), TARGETS.get(rate, ())):
            ms = statistics.median(percentile(run, percent) for run in runs[rate])
            report.target(f"p{percent} at {rate:,}/s", f"below {limit_ms} ms", f"{ms:.1f} ms", ms < limit_ms)
    report.print_targets()


# ---- soak ----

SOAK_WINDOWS = 30
# The share of the time in which a process grows into its size.
SETTLING = 0.2


def report_soak(lab, programs, options, report):
    bench = Bench(lab, programs)
    rate = options.rate or int(bench.drain(FINALIZER, TURNS["8KB"], options.events).rate * options.share / 100)
    seconds = options.minutes * 60
    print(f"{rate:,} events/s for {options.minutes} min, {options.ids} ids", flush=True)
    samples, latencies = soak(bench, rate, seconds, options.ids)
    rows = [(f"{sample['minute']:.1f} min", f"{sample['memory_mib']:,.0f}", f"{sample['on_the_way']:,}",
             *(f"{percentile(ms, percent):,.1f}" for percent in (50, 99, 100))) for sample, ms in zip(samples, latencies)]
    print_table("over time: memory of the worker, events that were due and not told of, ms to the webhook's arrival",
                ["memory, MiB", "on the way", "p50", "p99", "max"], rows, width=14)
    settled = [(sample, ms) for sample, ms in zip(samples, latencies) if sample["minute"] >= SETTLING * options.minutes]
    growth = slope([(sample["minute"] / 60, sample["memory_mib"]) for sample, _ in settled])
    third = max(1, len(settled) // 3)
    early, late = (statistics.median(percentile(ms, 99) for _, ms in part) for part in (settled[:third], settled[-third:]))
    print(f"\nafter the first fifth: memory {growth:+,.1f} MiB/h; p99 {early:,.1f} ms in the first third, {late:,.1f} ms in the last;"
          f" at most {max(sample['on_the_way'] for sample in samples):,} events on the way")
    report.figures |= {"rate": rate, "ids": options.ids, "minutes": options.minutes, "memory_mib_per_hour": growth, "p99_early": early, "p99_late": late,
                       "samples": [sample | {"p50": percentile(ms, 50), "p99": percentile(ms, 99), "max": ms[-1]}
                                   for sample, ms in zip(samples, latencies)]}


def soak(bench, rate, seconds, ids):
    """Of each of some windows: what was seen at its end, and the latencies of the events that were due in it."""
    sink = Sink(bench, "note")
    tested = Worker(bench, FINALIZER, sink.url)
    tested.start()
    tested.wait_until_consuming()
    load = bench.start_tool("load", bench.lab.amqp_url, ids, TURNS["8KB"], rate * seconds, rate)
    began, samples = time.monotonic(), []
    for number in range(1, SOAK_WINDOWS + 1):
        time.sleep(max(0, began + number * seconds / SOAK_WINDOWS - time.monotonic()))
        tested.process.require()
        arrived = len(sink.notes())
        passed = min(time.monotonic() - began, seconds)
        samples.append({"minute": passed / 60, "memory_mib": tested.process.memory_mib(), "on_the_way": max(0, int(rate * passed) - arrived)})
    if load.running.wait() != 0:
        load.require()
    count = rate * seconds
    wait_for(lambda: len(sink.notes()) >= count, 120, "every session's webhook to arrive")
    due = {session_id: int(at) for session_id, at in map(str.split, load.log.read_text().splitlines())}
    wait_for(lambda: tested.found("delivered") == count, 60, "every delivery to be recorded")
    tested.require_all(count, len(sink.noted))
    bench.require_empty_queues()
    first, window_us = min(due.values()), seconds * 1_000_000 / SOAK_WINDOWS
    latencies = [[] for _ in range(SOAK_WINDOWS)]
    for session_id, at in sink.noted:
        window = min(SOAK_WINDOWS - 1, int((due[session_id] - first) / window_us))
        latencies[window].append((at - due[session_id]) / 1000)
    tested.end()
    sink.process.kill()
    return samples, [sorted(ms) for ms in latencies]


def slope(points):
    """Of the line that lies closest to the points."""
    return statistics.linear_regression(*zip(*points)).slope if len(points) > 1 else 0.0
