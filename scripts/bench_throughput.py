"""What scripts/bench measures first: events a second, what they cost, and the limits of the parts."""

import http.client
import shutil
import statistics
import time
from urllib.parse import urlsplit

from bench_latency import LATENCY_HEAD, latency_cells, measure_latency, summary
from bench_plot import plot
from bench_report import histogram, print_histogram, print_table, spread
from bench_workers import EMBEDDED, FINALIZER, NAIVE, PIPELINE, PROGRAMS, TURNS, Bench, Sink
from lab import ROOT, Failed

# Large events are fewer, and so are those of the slow ones: each run takes about as long.
SHARE = {NAIVE: 0.25, EMBEDDED: 0.5}
SIZE_SHARE = {"8KB": 1, "50KB": 0.25}
LATENCY_RATE, LATENCY_SECONDS = 1_000, 10
STARTS = 5


def report_throughput(lab, programs, options, report):
    bench = Bench(lab, programs)
    report.figures |= {"rounds": options.rounds, "sizes": {}, "limits": {}}
    for size in options.size or TURNS:
        report.figures["sizes"][size] = compare(bench, size, options)
    if options.only:
        return
    report.figures["limits"] = measure_limits(bench, options)
    report.figures["latency"] = compare_latency(bench, options.rounds)
    report.figures["ready_ms"] = measure_starts(bench)
    add_targets(report)
    report.print_targets()
    plot(report.figures, report.folder / "throughput.svg")


# ---- the workers ----

def compare(bench, size, options):
    workers = [worker for worker in (NAIVE, PIPELINE, FINALIZER, EMBEDDED) if worker in (options.only or [worker])]
    runs = {worker: [] for worker in workers}
    # In turns: what the machine does meanwhile hits all alike.
    for _ in range(options.rounds):
        for worker in workers:
            events = max(200, int(options.events * SIZE_SHARE[size] * SHARE.get(worker, 1)))
            runs[worker].append(bench.drain(worker, TURNS[size], events))
            print(f"  {worker}, {size}: {runs[worker][-1].rate:,.0f}/s of {events:,}", flush=True)
    figures = {worker: {
        "events_per_second": [run.rate for run in measured],
        "cpu_us": {program: [run.cpu_us[program] for run in measured] for program in [*PROGRAMS, "sum"]},
        "peak_mib": [run.peak_mib for run in measured],
        "wal_bytes": [run.wal_bytes for run in measured],
    } for worker, measured in runs.items()}
    event_bytes = next(iter(runs.values()))[0].event_bytes
    print_comparison(f"{size} ({event_bytes:,} bytes)", figures)
    return {"event_bytes": event_bytes, "workers": figures, "ratios": ratios(figures)}


def ratios(figures):
    """Of the rates of one round, which followed each other closely."""
    def against(other):
        return [ours / theirs for ours, theirs in zip(figures[FINALIZER]["events_per_second"], figures[other]["events_per_second"])]

    return {other: against(other) for other in (NAIVE, PIPELINE) if other in figures and FINALIZER in figures}


def print_comparison(size, figures):
    head = ["events/s", "peak memory, MiB", "WAL, bytes/event"]
    rows = [(worker, spread(found["events_per_second"], ",.0f"), spread(found["peak_mib"], ",.0f"), spread(found["wal_bytes"], ",.0f"))
            for worker, found in figures.items()]
    print_table(f"{size}, from queue to recorded delivery: min / median / max", head, rows)
    for other, values in ratios(figures).items():
        print(f"  {FINALIZER} / {other}: {spread(values, '.2f')}")
    rows = [(worker, *(f"{statistics.median(us):,.0f}" for us in found["cpu_us"].values())) for worker, found in figures.items()]
    print_table(f"{size}, CPU per event, µs (median)", [*PROGRAMS, "sum"], rows, width=10)


# ---- the limits ----

def measure_limits(bench, options):
    cases = {
        "broker consume": (consume, options.events),
        "bulk insert": (insert, options.events),
        "HTTP client": (post, 2 * options.events),
        "HMAC": (sign, 20 * options.events),
        "JSON": (decode, 2 * options.events),
    }
    figures = {name: {"per_second": [], "cpu_us": {program: [] for program in PROGRAMS}} for name in cases}
    for _ in range(options.rounds):
        for name, (measure, count) in cases.items():
            seconds, cpu = measure(bench, count)
            figures[name]["per_second"].append(count / seconds)
            for program in PROGRAMS:
                figures[name]["cpu_us"][program].append(cpu.get(program, 0) * 1e6 / count)
    rows = [(name, spread(found["per_second"], ",.0f"), *(f"{statistics.median(us):,.1f}" for us in found["cpu_us"].values()))
            for name, found in figures.items()]
    print_table("the limits: each part alone, 8 KB, a second (min / median / max), and CPU each, µs (median)",
                ["per second", *PROGRAMS], rows)
    return figures


def consume(bench, count):
    bench.fill_queue(TURNS["8KB"], count)
    measured = limit(bench, "consume", bench.lab.amqp_url, count)
    bench.require_empty_queues()
    return measured


def insert(bench, count):
    database = bench.lab.new_database(bench.next_name("limit"))
    database.run_file(ROOT / "benches" / "tools" / "pipeline.sql")
    count -= count % 400
    measured = limit(bench, "insert", database.url, TURNS["8KB"], count)
    if database.number("SELECT count(*) FROM deliveries") != count:
        raise Failed("the bulk insert lost rows")
    database.drop()
    return measured


def post(bench, count):
    sink = Sink(bench, "answer")
    seconds, cpu = limit(bench, "post", sink.url, count)
    if sink.count() != count:
        raise Failed(f"{sink.count()} of {count} webhooks arrived")
    cpu["receiver"] = sink.process.cpu_seconds()
    sink.process.kill()
    return seconds, cpu


def sign(bench, count):
    return limit(bench, "sign", count)


def decode(bench, count):
    return limit(bench, "decode", TURNS["8KB"], count)


def limit(bench, *arguments):
    """Seconds, and CPU seconds by program."""
    before = bench.server_cpu()
    printed, cpu = bench.run_tool("limits", *arguments)
    spent = {program: after - before[program] for program, after in bench.server_cpu().items()}
    return float(printed), spent | {"worker": cpu}


# ---- latency, and from start to ready ----

def compare_latency(bench, rounds):
    runs = {PIPELINE: [], FINALIZER: []}
    for _ in range(rounds):
        for worker, measured in runs.items():
            measured.append(measure_latency(bench, LATENCY_RATE, LATENCY_SECONDS, worker=worker))
    print_table(f"ms from when an event is due to be published to its webhook's arrival, {LATENCY_RATE:,}/s for {LATENCY_SECONDS} s",
                LATENCY_HEAD, [(worker, *latency_cells(measured)) for worker, measured in runs.items()])
    buckets = histogram([ms for run in runs[FINALIZER] for ms in run])
    print_histogram(f"{FINALIZER}: how many took so long", buckets)
    return {"rate": LATENCY_RATE, "seconds": LATENCY_SECONDS, "histogram": buckets,
            "workers": {worker: summary(measured) for worker, measured in runs.items()}}


def measure_starts(bench):
    """Milliseconds from the start of the process until it says that it is ready; of SQLite without a broker, in a
    folder that is new each time."""
    database = bench.lab.new_database(bench.next_name("ready"))
    at_scale = bench.new_finalizer(database)
    times = {"Postgres and RabbitMQ": [], "embedded": []}
    for _ in range(STARTS):
        times["Postgres and RabbitMQ"].append(start(bench, at_scale, at_scale.environment))
        folder = bench.lab.folder / bench.next_name("embedded")
        folder.mkdir()
        embedded = at_scale.environment | {"FINALIZER_DATABASE_URL": f"sqlite://{folder}/finalizer.db"}
        del embedded["FINALIZER_AMQP_URL"]
        times["embedded"].append(start(bench, at_scale, embedded))
        shutil.rmtree(folder)
    database.drop()
    print_table(f"ms from start to ready, {STARTS} times: min / median / max", ["ms"],
                [(name, spread(found, ",.0f")) for name, found in times.items()])
    return times


def start(bench, finalizer, environment):
    began = time.monotonic()
    process = bench.lab.start(bench.next_name("ready"), [finalizer.binary, "run"], environment)
    address = urlsplit(finalizer.url).netloc
    while not is_ready(address):
        process.require()
        if time.monotonic() - began > 30:
            raise Failed("finalizer was not ready within 30 s")
        time.sleep(0.001)
    ms = (time.monotonic() - began) * 1000
    process.stop()
    return ms


def is_ready(address):
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


# ---- targets ----

def add_targets(report):
    figures = report.figures
    sizes = figures["sizes"]
    if "8KB" in sizes:
        workers = sizes["8KB"]["workers"]
        rate = statistics.median(workers[FINALIZER]["events_per_second"])
        report.target("events a second, 8 KB", "at least 6,000", f"{rate:,.0f}", rate >= 6_000)
        embedded = statistics.median(workers[EMBEDDED]["events_per_second"])
        report.target("events a second on SQLite, 8 KB", "at least 2,000", f"{embedded:,.0f}", embedded >= 2_000)
    for size, found in sizes.items():
        share = statistics.median(found["ratios"][PIPELINE])
        report.target(f"of the hand-tuned pipeline's events a second, {size}", "at least 85 %", f"{share:.0%}", share >= 0.85)
    latency = figures["latency"]["workers"][FINALIZER]
    for percent, limit_ms in (("p50", 5), ("p99", 20)):
        ms = statistics.median(latency[percent])
        report.target(f"{percent} at {LATENCY_RATE:,}/s", f"below {limit_ms} ms", f"{ms:.1f} ms", ms < limit_ms)
    for name, times in figures["ready_ms"].items():
        ms = statistics.median(times)
        report.target(f"from start to ready, {name}", "below 200 ms", f"{ms:.0f} ms", ms < 200)
