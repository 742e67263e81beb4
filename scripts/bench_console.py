"""What scripts/bench measures of the console: how long the answers take that its pages are made of, with very many sessions."""

import http.client
import time
from urllib.parse import urlsplit

from bench_growth import described, fill, keep_one_of_each
from bench_report import print_table, spread
from bench_workers import Bench
from lab import Failed

OWNER = 7
WANTED_MS = 100
# What each page asks for; {session} is one of the many.
PAGES = {
    "overview": "/api/overview/?minutes=60",
    "sessions, first page": "/api/billing/usage/?page_size=50&brief=true",
    "sessions, page 100": "/api/billing/usage/?page_size=50&brief=true&page=100",
    "sessions of a character": "/api/billing/usage/?page_size=50&brief=true&character_slug=bot-3",
    "one session": "/api/billing/sessions/{session}/",
    "its webhooks": "/api/webhooks/deliveries/?session_id={session}",
    "endpoints": "/api/webhooks/endpoints/",
    "deliveries": "/api/webhooks/deliveries/?page_size=50",
    "deliveries that failed": "/api/webhooks/deliveries/?status=exhausted&page_size=50",
    "failures": "/api/failures/?state=open&page_size=50",
}
# Only staff may see these.
OF_STAFF = {"failures"}


def report_console(lab, programs, options, report):
    bench = Bench(lab, programs)
    database = lab.new_database("console")
    keep_one_of_each(bench, database)
    fill(database, 1, options.sessions)
    print(described(database), flush=True)
    finalizer = bench.new_finalizer(database)
    keys = {
        "staff": finalizer.ask("keys", "create", "--user", "1", "--staff")["key"],
        "an owner": finalizer.ask("keys", "create", "--user", str(OWNER))["key"],
    }
    found = database.rows(f"SELECT session_id FROM sessions WHERE character_owner = {OWNER} ORDER BY id DESC LIMIT {options.requests}")
    sessions = [session for (session,) in found]
    worker = finalizer.run("console")
    finalizer.wait_until_ready(worker)
    report.figures["pages"] = {}
    for who, key in keys.items():
        times = {name: ask(finalizer, key, path, sessions) for name, path in PAGES.items() if who == "staff" or name not in OF_STAFF}
        print_table(f"ms to the whole answer, for {who}, {options.requests} times: min / median / max", ["ms"],
                    [(name, spread(ms, ",.1f")) for name, ms in times.items()])
        report.figures["pages"][who] = times
        slowest = max(max(ms) for ms in times.values())
        report.target(f"the slowest answer, for {who}", f"below {WANTED_MS} ms", f"{slowest:.0f} ms", slowest < WANTED_MS)
    worker.stop()
    database.drop()
    report.print_targets()


def ask(finalizer, key, path, sessions):
    connection = http.client.HTTPConnection(urlsplit(finalizer.url).netloc, timeout=60)
    times = []
    for session in sessions:
        began = time.monotonic()
        connection.request("GET", path.format(session=session), headers={"X-API-Key": key})
        response = connection.getresponse()
        body = response.read()
        times.append((time.monotonic() - began) * 1000)
        if response.status != 200:
            raise Failed(f"{path} was answered with {response.status}: {body[:500]!r}")
    return times
