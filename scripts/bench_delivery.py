"""What scripts/bench measures of the delivery of webhooks: fairness, backlogs, claims."""

import re
import statistics
import time

from lab import ROOT, Failed, Finalizer, clean_environment, get_text, wait_for

WARM_UP_SECONDS = 2
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
    SELECT number, pg_temp.id_at(at) AS session_id, '\\x' || md5(number::text) AS message_id, at
    FROM (SELECT number, now() - interval '1 hour' + number * interval '1 hour' / {messages} AS at
        FROM generate_series(1, {messages} - 1) AS number) AS numbers;

INSERT INTO deliveries SELECT copy.* FROM copies, deliveries AS one, jsonb_populate_record(one,
    jsonb_build_object('delivery_id', pg_temp.id_at(at), 'message_id', copies.message_id,
        'next_attempt_at', at, 'created_at', at, 'is_retry', number % {nth_retry} = 0,
        'attempts', (number % {nth_retry} = 0)::int)) AS copy;
INSERT INTO messages SELECT copy.* FROM copies, messages AS one, jsonb_populate_record(one,
    jsonb_build_object('message_id', copies.message_id, 'session_id', copies.session_id, 'created_at', at)) AS copy;
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


class Delivery:
    """Servers and the programs to measure."""

    def __init__(self, lab, programs):
        self.lab = lab
        self.programs = programs
        self.environment = clean_environment()
        self.count = 0

    def next_name(self, name):
        self.count += 1
        return f"{name}_{self.count}"

    def new_finalizer(self, database):
        finalizer = Finalizer(self.lab, self.programs["finalizer"], database)
        finalizer.command("migrate")
        return finalizer

    def start_sink(self, kind, listeners=1):
        """A receiver; its URLs."""
        sink = self.lab.start(self.next_name(f"sink_{kind}"), [self.programs["sink"], kind, listeners], self.environment)

        def urls():
            sink.require()
            found = [line for line in sink.log.read_text().splitlines() if line.startswith("http")]
            return found if len(found) == listeners else None

        return sink, wait_for(urls, 30, f"{sink.name} to listen")

    # ---- fairness ----

    def latencies(self, kinds, rate, seconds):
        """From when each event was due to be published until its webhook arrived at the first of
        the receivers, in milliseconds, sorted. Every receiver hears of every session."""
        database = self.lab.new_database(self.next_name("fairness"))
        finalizer = self.new_finalizer(database)
        sinks = [self.start_sink(kind) for kind in kinds]
        for _, (url,) in sinks:
            finalizer.ask("endpoints", "add", url, "--owner", "all")
        worker = finalizer.run(self.next_name("worker"))
        finalizer.wait_until_ready(worker)
        count = rate * (seconds + WARM_UP_SECONDS)
        load = self.lab.start(self.next_name("load"), [self.programs["load"], self.lab.amqp_url, count, rate], self.environment)
        if load.running.wait() != 0:
            load.require()
        due = dict(line.split() for line in load.log.read_text().splitlines())
        url = sinks[0][1][0]
        wait_for(lambda: get_text(url).count("\n") >= count, 60, "every session's webhook to arrive")
        arrived = [line.split() for line in get_text(url).splitlines()]
        if len(arrived) != count or {session_id for session_id, _ in arrived} != due.keys():
            raise Failed(f"{count} sessions, and {len(arrived)} webhooks of {len(dict(arrived))} sessions")
        wait_for(lambda: not any(self.lab.queue_depths().values()), 30, "the queue to be empty")
        # A graceful end would wait for the receiver that hangs.
        worker.kill()
        for sink, _ in sinks:
            sink.kill()
        database.drop()
        first_due = min(map(int, due.values()))
        counted = first_due + WARM_UP_SECONDS * 1_000_000
        return sorted((int(at) - int(due[session_id])) / 1000 for session_id, at in arrived if int(due[session_id]) >= counted)

    # ---- backlog ----

    def drain(self, deliveries, endpoints):
        """How fast a backlog is sent, by a process that does nothing else: deliveries a second,
        and the process's peak memory in MiB."""
        database = self.lab.new_database(self.next_name("backlog"))
        sink, urls = self.start_sink("answer", endpoints)
        finalizer = self.fill(database, deliveries, urls)
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
        sink.kill()
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
        run = self.lab.start(self.next_name("claim"), [self.programs["claim"], database.url, count], self.environment)
        if run.running.wait() != 0:
            run.require()
        lines = [line.split() for line in run.log.read_text().splitlines()]
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


def report_fairness(lab, programs, options):
    bench = Delivery(lab, programs)
    cases = {
        "alone": ["note"],
        "beside two healthy": ["note", "answer", "answer"],
        "beside two bad": ["note", "hang", "fail"],
    }
    measured = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case, kinds in cases.items():
            measured[case].append(bench.latencies(kinds, options.rate, options.seconds))
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


def report_backlog(lab, programs, options):
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


def report_claim(lab, programs, options):
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


def percentile(sorted_values, percent):
    return sorted_values[max(0, -(-len(sorted_values) * percent // 100) - 1)]


def spread(values, form):
    """The least, the median and the greatest."""
    return " / ".join(format(value, form) for value in (min(values), statistics.median(values), max(values)))
