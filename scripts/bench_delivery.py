"""What scripts/bench measures of the delivery of webhooks: fairness, backlogs, claims, and memory beside both queues."""

import re
import time

from bench_latency import measure_latency
from bench_report import percentile, spread
from bench_workers import TURNS, Bench, Sink
from lab import ROOT, Failed

BACKLOG_ENDPOINTS = 20
SLOW_START_SECONDS = 30
NEVER = 1_000_000_000
ONE_EVENT = ROOT / "tests" / "fixtures" / "events" / "call_livekit_1_8_9.json"

# Copies the one session that is there, with its message, which every endpoint is owed. They became
# due one after the other in the last hour; every so many has failed before. Ids are ordered by time
# where ours are.
FILL = """
CREATE FUNCTION pg_temp.id_at(at TIMESTAMPTZ) RETURNS UUID LANGUAGE SQL AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
        || '7' || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15))::uuid $$;

CREATE TEMPORARY TABLE copies AS
    SELECT number, pg_temp.id_at(at) AS session_id, pg_temp.id_at(at) AS row_id,
        '\\x' || md5(number::text) AS message_id, at
    FROM (SELECT number, now() - interval '1 hour' + number * interval '1 hour' / {messages} AS at
        FROM generate_series(1, {messages} - 1) AS number) AS numbers;

INSERT INTO deliveries SELECT copy.* FROM copies, deliveries AS one, jsonb_populate_record(one,
    jsonb_build_object('delivery_id', pg_temp.id_at(at), 'message_row', copies.row_id,
        'next_attempt_at', at, 'created_at', at, 'is_retry', number % {nth_retry} = 0,
        'attempts', (number % {nth_retry} = 0)::int)) AS copy;
INSERT INTO messages SELECT copy.* FROM copies, messages AS one, jsonb_populate_record(one,
    jsonb_build_object('row_id', copies.row_id, 'message_id', copies.message_id, 'session_id', copies.session_id,
        'session_number', one.session_number + number, 'created_at', at)) AS copy;
INSERT INTO sessions SELECT copy.* FROM copies, sessions AS one, jsonb_populate_record(one,
    jsonb_build_object('session_id', copies.session_id, 'id', one.id + number, 'finalized_at', at)) AS copy;

VACUUM ANALYZE;
CHECKPOINT
"""

DRAIN_SECONDS = """
SELECT extract(epoch FROM max(started_at + duration_us * interval '1 microsecond') - min(started_at))
FROM attempts"""

DELIVERED = "SELECT count(*) FROM deliveries WHERE state = 'delivered'"

EXPLAIN = """
ALTER DATABASE {name} SET session_preload_libraries = 'auto_explain';
ALTER DATABASE {name} SET auto_explain.log_min_duration = 0;
ALTER DATABASE {name} SET auto_explain.log_analyze = on;
ALTER DATABASE {name} SET auto_explain.log_buffers = on
"""


class Delivery(Bench):
    """Servers and the programs to measure."""

    # ---- backlog ----

    def drain(self, deliveries, endpoints):
        """How fast a backlog is sent, by a process that does nothing else: deliveries a second,
        and the process's peak memory in MiB."""
        database = self.lab.new_database(self.next_name("backlog"))
        sink = Sink(self, "answer", endpoints)
        finalizer = self.fill(database, deliveries, sink.urls)
        worker = finalizer.run(self.next_name("worker"), FINALIZER_ROLES="deliver")
        began, done = time.monotonic(), 0
        while done < deliveries:
            # Asks seldom while much is left: counting takes CPU as well.
            passed = time.monotonic() - began
            time.sleep(min(max((deliveries - done) * passed / done / 2 if done else 0.2, 0.05), 5))
            worker.require()
            done = database.number(DELIVERED)
            if done == 0 and passed > SLOW_START_SECONDS:
                raise Failed(f"nothing was delivered within {SLOW_START_SECONDS} s")
        rate = deliveries / float(database.rows(DRAIN_SECONDS)[0][0])
        peak_mib = worker.peak_memory_mib()
        worker.stop()
        sink.process.kill()
        database.drop()
        return rate, peak_mib

    def fill(self, database, deliveries, urls, nth_retry=NEVER):
        """Makes so many due deliveries, each endpoint having the same number of them."""
        finalizer = self.new_finalizer(database)
        for url in urls:
            finalizer.ask("endpoints", "add", url, "--owner", "all")
        finalizer.command("ingest", ONE_EVENT)
        database.rows(FILL.format(messages=deliveries // len(urls), nth_retry=nth_retry))
        found = database.number("SELECT count(*) FROM deliveries WHERE state = 'pending'")
        if found != deliveries:
            raise Failed(f"{found} deliveries were made, not {deliveries}: give a multiple of {len(urls)}")
        return finalizer

    # ---- claim ----

    def database_to_claim_from(self, deliveries):
        database = self.lab.new_database(self.next_name("claim"))
        urls = [f"http://127.0.0.1:9/{number}" for number in range(BACKLOG_ENDPOINTS)]
        self.fill(database, deliveries, urls, nth_retry=2)
        return database

    def claim(self, database, count):
        """Claims and records so many: of each call the milliseconds it takes, and per delivery."""
        printed, _ = self.run_tool("claim", database.url, count)
        lines = [line.split() for line in printed.splitlines()]
        return {call: (float(ms), float(ms_each)) for call, ms, ms_each in lines}

    def plan_of_claim(self, database, count):
        """The plan of the largest claim, as Postgres executed it."""
        database.rows(EXPLAIN.format(name=database.name))
        log = self.lab.services / "postgres" / "log"
        before = log.stat().st_size
        self.claim(database, count)
        with open(log) as lines:
            lines.seek(before)
            plans = re.split(r"^.* LOG: .* plan:$", lines.read(), flags=re.MULTILINE)
        claims = [plan for plan in plans if "FOR UPDATE SKIP LOCKED" in plan]
        if not claims:
            raise Failed(f"no plan of a claim is in {log}")
        return max(claims, key=lambda plan: int(re.search(r"actual .*? rows=(\d+)", plan)[1]))


def report_fairness(lab, programs, options, report):
    bench = Bench(lab, programs)
    cases = {
        "alone": ["note"],
        "beside two healthy": ["note", "answer", "answer"],
        "beside two bad": ["note", "hang", "fail"],
    }
    measured = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case, kinds in cases.items():
            measured[case].append(measure_latency(bench, options.rate, options.seconds, kinds=kinds))
            sorted_ms = measured[case][-1]
            print(f"  {case}: p99 {percentile(sorted_ms, 99):.1f} ms", flush=True)
    print(
        f"\nms from when an event is due to be published to its webhook's arrival at a healthy endpoint:"
        f" min / median / max of {options.rounds}\n({options.rate} events/s for {options.seconds} s;"
        " bad: one hangs for 15 s on every request, one answers 500 to every request)"
    )
    print(f"  {'':<20}{'p50':>24}{'p99':>24}{'max':>24}")
    for case, runs in measured.items():
        columns = [spread([percentile(run, percent) for run in runs], ",.1f") for percent in (50, 99, 100)]
        print(f"  {case:<20}" + "".join(f"{column:>24}" for column in columns))
    alone = [percentile(run, 99) for run in measured["alone"]]
    for case in list(cases)[1:]:
        ratios = [percentile(run, 99) / ms for run, ms in zip(measured[case], alone)]
        print(f"  p99 {case} / alone: {spread(ratios, '.2f')}")


def report_backlog(lab, programs, options, report):
    bench = Delivery(lab, programs)
    for endpoints in (BACKLOG_ENDPOINTS, 1):
        runs = {deliveries: [] for deliveries in (options.short, options.deliveries)}
        for _ in range(options.rounds):
            for deliveries in runs:
                runs[deliveries].append(bench.drain(deliveries, endpoints))
                print(f"  {deliveries:,} to {endpoints}: {runs[deliveries][-1][0]:,.0f}/s", flush=True)
        print(f"\n{endpoints} endpoint{'s' if endpoints > 1 else ''}: min / median / max of {options.rounds}")
        print(f"  {'backlog':>10}{'deliveries/s':>26}{'peak memory, MiB':>26}")
        for deliveries, measured in runs.items():
            rates, peaks = zip(*measured)
            print(f"  {deliveries:>10,}{spread(rates, ',.0f'):>26}{spread(peaks, ',.0f'):>26}")
        short, long = (runs[deliveries] for deliveries in (options.short, options.deliveries))
        ratios = [ours / theirs for (ours, _), (theirs, _) in zip(long, short)]
        print(f"  long / short: {spread(ratios, '.2f')}\n", flush=True)


FEW_MIB = 100
# Nothing of it may fail, though most of it is still there at the end.
FAILED = """
SELECT (SELECT count(*) FROM failures) + (SELECT count(*) FROM attempts WHERE status IS NULL OR status NOT BETWEEN 200 AND 299)"""


def report_memory(lab, programs, options, report):
    """The worker's memory while very many events are queued and very many deliveries are due."""
    bench = Delivery(lab, programs)
    database = lab.new_database("memory")
    backlog, sink = Sink(bench, "answer", BACKLOG_ENDPOINTS), Sink(bench, "answer")
    finalizer = bench.fill(database, options.deliveries, backlog.urls)
    database.rows("UPDATE endpoints SET character_slug = 'of nobody that is still to come'")
    finalizer.ask("endpoints", "add", sink.url, "--owner", "all")
    bench.fill_queue(TURNS[options.size[0] if options.size else "8KB"], options.events)
    worker = finalizer.run("worker")
    samples = []
    for _ in range(options.seconds):
        time.sleep(1)
        worker.require()
        samples.append(worker.memory_mib())
    sessions, delivered = database.number("SELECT count(*) FROM sessions"), database.number(DELIVERED)
    peak = worker.peak_memory_mib()
    if database.number(FAILED):
        raise Failed("there are failures, or attempts that failed")
    worker.kill()
    print(f"\n{options.events:,} events queued and {options.deliveries:,} deliveries due at the start; after {options.seconds} s"
          f" {sessions - options.deliveries // BACKLOG_ENDPOINTS:,} events were finalized and {delivered:,} deliveries made")
    report.figures |= {"events": options.events, "deliveries": options.deliveries, "memory_mib": samples, "peak_mib": peak}
    report.target("peak memory of the worker", f"below {FEW_MIB} MB", f"{peak * 1.048576:,.0f} MB", peak * 1.048576 < FEW_MIB)
    report.print_targets()


def report_claim(lab, programs, options, report):
    bench = Delivery(lab, programs)
    sizes = (options.short, options.deliveries)
    calls = {size: [] for size in sizes}
    for size in sizes:
        for number in range(options.rounds):
            # What is claimed is gone: a small table is made anew.
            if number == 0 or size == options.short:
                database = bench.database_to_claim_from(size)
            count = min(options.count, size)
            calls[size].append(bench.claim(database, count))
            ms = calls[size][-1]["claim"][1]
            print(f"  {size:,} due: claim {ms:.3f} ms/delivery", flush=True)
    print(
        f"\nmin / median / max of {options.rounds}; a claim takes 64 of each of 16 endpoints of {BACKLOG_ENDPOINTS},"
        f" {options.count:,} in all; half of what is due are retries"
    )
    print(f"  {'due':>10}  {'call':<14}{'ms per call':>26}{'ms per delivery':>26}")
    for size, runs in calls.items():
        for call in runs[0]:
            columns = [spread([run[call][which] for run in runs], form) for which, form in ((0, ".2f"), (1, ".4f"))]
            print(f"  {size:>10,}  {call:<14}" + "".join(f"{column:>26}" for column in columns))
    plan = bench.plan_of_claim(database, 16 * 64)
    print(f"\nthe plan of a claim with {options.deliveries:,} due")
    for line in plan.splitlines():
        if re.search(r"\(actual|Buffers|Index Cond|Sort Method", line):
            print(line.expandtabs(2))
    print(f"  sequential scans: {plan.count('Seq Scan')}")

