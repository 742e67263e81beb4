"""What scripts/bench measures of the history: how long pages, totals and walks take, and how they are read."""

import http.client
import json
import re
import time
from urllib.parse import urlsplit

from bench_delivery import EXPLAIN
from bench_report import spread
from lab import ROOT, Failed, Finalizer

OWNERS = 20
OWNER = 7
XIDS = 500
ONE_EVENT = ROOT / "tests" / "fixtures" / "events" / "call_livekit_1_8_9.json"

# How the columns of a copy differ from those of the one session that is there. Names are random, calls ten
# seconds apart, the owners' mixed; few transactions finalized them, for this cluster has not seen many.
COPY = {
    "session_id": "md5('session' || number)::uuid",
    "id": "one.id + number",
    "character_owner": f"number % {OWNERS}",
    "character_slug": f"'bot-' || number / {OWNERS} % 10",
    "room_id": "'RM_' || left(md5('room' || number), 12)",
    "room_name": "'room-' || left(md5('name' || number), 12)",
    "recording_egress_id": "'EG_' || left(md5('egress' || number), 12)",
    "started_at": "to_timestamp(1700000000 + number * 10)",
    "ended_at": "to_timestamp(1700000100 + number * 10)",
    "finalized_at": "to_timestamp(1700000101 + number * 10)",
    "finalized_xid": f"(1 + number * {XIDS} / {{sessions}})::text::xid8",
}

KINDS = {"page": ") AS page", "totals": "COUNT(*) AS sessions", "walk": " AS position"}


def fill(database, sessions):
    names = [name for (name,) in database.rows(
        "SELECT quote_ident(column_name) FROM information_schema.columns WHERE table_name = 'sessions' ORDER BY ordinal_position")]
    values = [COPY.get(name, f"one.{name}").format(sessions=sessions) for name in names]
    database.rows(
        f"INSERT INTO sessions ({', '.join(names)}) SELECT {', '.join(values)}"
        f" FROM sessions AS one, generate_series(1, {sessions}::bigint) AS number")
    database.rows("VACUUM ANALYZE; CHECKPOINT")


class Reader:
    """Asks over one connection, as the owner."""

    def __init__(self, finalizer, key):
        self.connection = http.client.HTTPConnection(urlsplit(finalizer.url).netloc, timeout=60)
        self.key = key

    def ask(self, query):
        """How many milliseconds it took, and the data."""
        began = time.monotonic()
        self.connection.request("GET", f"/api/billing/usage/?{query}", headers={"X-API-Key": self.key})
        response = self.connection.getresponse()
        body = response.read()
        ms = (time.monotonic() - began) * 1000
        if response.status != 200:
            raise Failed(f"{query}: {response.status} {body.decode()}")
        return ms, json.loads(body)["data"]


def report_history(lab, programs, options, report):
    database = lab.new_database("history")
    finalizer = Finalizer(lab, programs["finalizer"], database)
    finalizer.command("migrate")
    finalizer.command("ingest", ONE_EVENT)
    began = time.monotonic()
    fill(database, options.sessions)
    size = database.rows("SELECT pg_size_pretty(pg_table_size('sessions')), pg_size_pretty(pg_indexes_size('sessions'))")[0]
    print(f"{options.sessions:,} sessions in {time.monotonic() - began:.0f} s: {size[0]}, indexes {size[1]}", flush=True)
    key = finalizer.ask("keys", "create", "--user", str(OWNER))["key"]

    worker = finalizer.run("api", FINALIZER_ROLES="api")
    finalizer.wait_until_ready(worker)
    reader = Reader(finalizer, key)
    pages = reader.ask("")[1]["sessions"]["total_pages"]
    half_way = reader.ask(f"page={pages // 2}")[1]["sessions"]["data"][0]["created_at"]
    queries = {
        "the first page": "",
        "a page half-way": f"page={pages // 2}",
        "the last page": f"page={pages}",
        "one character": "character_slug=bot-3",
        "nobody's character": "character_slug=nobody",
        "a day half-way": f"start={half_way[:10]}&end={half_way[:10]}",
        "200 rows": "page_size=200",
        "a walk's beginning": "finalized_after=",
        "a walk of nobody's": "finalized_after=&character_slug=nobody",
    }
    print(f"\nms of a request of an owner with {reader.ask('')[1]['total_sessions']:,} sessions, totals included:"
          f" min / median / max of {options.requests}")
    for name, query in queries.items():
        times = [reader.ask(query)[0] for _ in range(options.requests)]
        print(f"  {name:<20}{spread(times, ',.1f'):>28}", flush=True)
    worker.stop()

    logged = explain(lab, finalizer, database, key, queries, options.requests)
    print(f"\nms of a statement in Postgres: min / median / max of {options.requests}")
    for name, plans in logged.items():
        for kind, mark in KINDS.items():
            times = [ms for ms, plan in plans if mark in plan]
            if times:
                print(f"  {name:<20}{kind:<8}{spread(times, ',.2f'):>28}", flush=True)
    for kind, mark in KINDS.items():
        plans = logged["a walk's beginning" if kind == "walk" else "a page half-way"]
        plan = next(plan for _, plan in reversed(plans) if mark in plan)
        print(f"\nthe plan of a {kind}")
        for line in plan.splitlines():
            if re.search(r"\(actual|Index Cond|Heap Fetches|Sort Method", line):
                print(line.expandtabs(2))
    scans = sum(plan.count("Seq Scan on sessions") for plans in logged.values() for _, plan in plans)
    print(f"\nsequential scans over sessions: {scans}")


def explain(lab, finalizer, database, key, queries, requests):
    """Asks again, with every plan in the log: of each query the milliseconds and the plans of its statements."""
    database.rows(EXPLAIN.format(name=database.name))
    database.rows(f"ALTER DATABASE {database.name} SET auto_explain.log_timing = off")
    worker = finalizer.run("api-explained", FINALIZER_ROLES="api")
    finalizer.wait_until_ready(worker)
    reader = Reader(finalizer, key)
    log = lab.services / "postgres" / "log"
    logged = {}
    for name, query in queries.items():
        before = log.stat().st_size
        for _ in range(requests):
            reader.ask(query)
        with open(log) as lines:
            lines.seek(before)
            parts = re.split(r"^.* LOG:  duration: ([\d.]+) ms  plan:$", lines.read(), flags=re.MULTILINE)
        logged[name] = [(float(ms), plan) for ms, plan in zip(parts[1::2], parts[2::2])]
    worker.stop()
    return logged
