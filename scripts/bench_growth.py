"""What scripts/bench measures of growth: what an event costs when there are very many sessions already."""

import statistics
import time

from bench_history import COPY, ONE_EVENT
from bench_report import print_table, spread
from bench_workers import FINALIZER, PROGRAMS, RANDOM, RISING, TURNS, Bench, Sink

SIZES = (200_000, 2_000_000)
ATTEMPTS = 3
# What the machine's noise may cost, or growth.
ALLOWED = 1.10
XIDS = 500

# What Finalizer names itself begins with the time.
OWN_ID = ("(lpad(to_hex(1700000000000 + number * 10000), 12, '0') || '7' || substr(md5(number::text), 1, 3)"
          " || '8' || substr(md5(number::text), 4, 15))::uuid")

# Each session of the copies has its message and its delivery, which was taken at the last attempt.
FILL = """
CREATE TEMPORARY TABLE copies AS
    SELECT number, {session_id} AS session_id, {own_id} AS row_id,
        decode(md5(number::text), 'hex') AS message_id, {own_id} AS delivery_id, {finalized_at} AS at
    FROM generate_series({first}::bigint, {last}::bigint) AS number;

INSERT INTO sessions ({names}) SELECT {values}
    FROM one_session AS one, generate_series({first}::bigint, {last}::bigint) AS number;
INSERT INTO messages SELECT copy.* FROM copies, one_message AS one, jsonb_populate_record(one,
    jsonb_build_object('row_id', copies.row_id, 'message_id', copies.message_id, 'session_id', copies.session_id,
        'session_number', one.session_number + number, 'created_at', at)) AS copy;
INSERT INTO deliveries SELECT copy.* FROM copies, one_delivery AS one, jsonb_populate_record(one,
    jsonb_build_object('delivery_id', copies.delivery_id, 'message_row', copies.row_id, 'state', 'delivered',
        'attempts', {attempts}, 'next_attempt_at', at, 'created_at', at, 'finished_at', at)) AS copy;
INSERT INTO attempts (delivery_id, number, started_at, duration_us, status, response_head, response_body, address, is_connection_reused)
    SELECT delivery_id, attempt, at, 1500, CASE WHEN attempt = {attempts} THEN 204 ELSE 500 END,
        'HTTP/1.1 204 No Content', '', '127.0.0.1:9000', true
    FROM copies, generate_series(1, {attempts}) AS attempt;

DROP TABLE copies;
SELECT setval('session_numbers', (SELECT max(id) FROM sessions));
VACUUM ANALYZE;
CHECKPOINT
"""


def report_growth(lab, programs, options, report):
    bench = Bench(lab, programs)
    database = lab.new_database("growth")
    most = options.sessions or SIZES[-1]
    sizes = [size for size in SIZES if size <= most] or [most]
    keep_one_of_each(bench, database)
    rounds, there = {}, 0
    for size in sizes:
        began = time.monotonic()
        fill(database, there + 1, size)
        there = size
        print(f"  {size:,} sessions: filled in {time.monotonic() - began:.0f} s; {described(database)}", flush=True)
        rounds[size] = []
        for _ in range(options.rounds):
            # In turns: the machine is not as fast all the time.
            empty = bench.drain(FINALIZER, TURNS["8KB"], options.events)
            filled = {ids: bench.drain(FINALIZER, TURNS["8KB"], options.events, database, ids=ids) for ids in (RANDOM, RISING)}
            rounds[size].append((empty, filled))
            rates = "; ".join(f"{size:,} sessions, {ids} ids: {run.rate:,.0f}/s" for ids, run in filled.items())
            print(f"  none: {empty.rate:,.0f}/s; {rates}", flush=True)
    database.drop()
    report_runs(rounds, report)


def report_runs(rounds, report):
    runs = {"none": [empty for found in rounds.values() for empty, _ in found]}
    runs |= {f"{size:,} {ids}": [filled[ids] for _, filled in found] for size, found in rounds.items() for ids in (RANDOM, RISING)}
    print_table("events a second: min / median / max", ["events/s", "WAL, bytes/event"],
                [(name, spread([run.rate for run in found], ",.0f"), spread([run.wal_bytes for run in found], ",.0f"))
                 for name, found in runs.items()])
    median = {name: {program: statistics.median(run.cpu_us[program] for run in found) for program in [*PROGRAMS, "sum"]}
              for name, found in runs.items()}
    print_table("CPU per event, µs (median)", [*PROGRAMS, "sum"],
                [(name, *(f"{us:,.0f}" for us in found.values())) for name, found in median.items()], width=10)
    report.figures["sessions"] = {name: {"events_per_second": [run.rate for run in found], "cpu_us": median[name],
                                         "wal_bytes": [run.wal_bytes for run in found]} for name, found in runs.items()}
    for size, found in rounds.items():
        for ids in (RANDOM, RISING):
            ratio = statistics.median(cost(filled[ids]) / cost(empty) for empty, filled in found)
            report.target(f"CPU of worker and Postgres with {size:,} sessions and {ids} ids, of that with none beside it",
                          f"at most {ALLOWED:.0%}", f"{ratio:.0%}", ratio <= ALLOWED)
    report.print_targets()


def cost(run):
    """The broker and the receiver know nothing of the tables."""
    return run.cpu_us["worker"] + run.cpu_us["postgres"]


def keep_one_of_each(bench, database):
    """One session with its message and delivery, to copy."""
    sink = Sink(bench, "answer")
    finalizer = bench.new_finalizer(database)
    endpoint = finalizer.ask("endpoints", "add", sink.url, "--owner", "all")
    finalizer.command("ingest", ONE_EVENT)
    for table in ("session", "message"):
        database.rows(f"CREATE TABLE one_{table} AS TABLE {table}s")
    database.rows("CREATE TABLE one_delivery AS TABLE deliveries; DELETE FROM deliveries")
    # The measured ones have endpoints of their own.
    finalizer.command("endpoints", "delete", endpoint["id"])
    sink.process.kill()


def fill(database, first, last):
    names = [name for (name,) in database.rows(
        "SELECT quote_ident(column_name) FROM information_schema.columns WHERE table_name = 'sessions' ORDER BY ordinal_position")]
    copy = COPY | {"finalized_xid": f"(1 + number % {XIDS})::text::xid8"}
    database.rows(FILL.format(
        first=first, last=last, attempts=ATTEMPTS, own_id=OWN_ID, session_id=copy["session_id"], finalized_at=copy["finalized_at"],
        names=", ".join(names), values=", ".join(copy.get(name, f"one.{name}") for name in names)))


def described(database):
    tables = ("sessions", "messages", "deliveries", "attempts")
    counts = ", ".join(f"{database.number(f'SELECT count(*) FROM {table}'):,} {table}" for table in tables)
    return f"{counts}, {database.rows('SELECT pg_size_pretty(pg_database_size(current_database()))')[0][0]}"
