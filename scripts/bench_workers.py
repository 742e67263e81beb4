"""What scripts/bench measures with: the workers that are compared, receivers, load. A worker that lost an event or a
delivery is no measurement."""

import os
import resource
import sqlite3
import time
import uuid

from lab import ROOT, Failed, Finalizer, children_of, clean_environment, cpu_seconds, get_text, wait_for

QUEUE = "finalizer.events"
# Of an event, by its size.
TURNS = {"8KB": 40, "50KB": 260}
PROGRAMS = ["worker", "postgres", "rabbitmq", "receiver"]
STALLED_SECONDS = 60
# What the ids of sessions are: no index knows where the next one goes, or they begin with the time.
RANDOM, RISING = "random", "rising"

NAIVE, PIPELINE, FINALIZER, EMBEDDED = "naive", "pipeline", "finalizer", "finalizer-sqlite"

# How often each must be there when so many events were published: once for each, and nothing else. A database that
# is kept has rows of before, which nobody counts: Finalizer's own ids begin with the time.
EXPECTED = {
    NAIVE: {"sessions": "SELECT count(*) FROM sessions", "delivered": "SELECT count(*) FROM deliveries WHERE state = 'delivered'"},
    FINALIZER: {
        "finalized sessions": "SELECT count(*) FROM sessions WHERE finalized_at IS NOT NULL AND id > {before}",
        "deliveries": "SELECT count(*) FROM deliveries WHERE delivery_id > {since}",
        "delivered": "SELECT count(*) FROM deliveries WHERE state = 'delivered' AND delivery_id > {since}",
        "attempts": "SELECT count(*) FROM attempts WHERE delivery_id > {since}",
        "attempts that succeeded": "SELECT count(*) FROM attempts WHERE status BETWEEN 200 AND 299 AND delivery_id > {since}",
    },
}
EXPECTED |= {PIPELINE: EXPECTED[NAIVE], EMBEDDED: EXPECTED[FINALIZER]}


class Bench:
    """Servers and the programs to measure."""

    def __init__(self, lab, programs):
        self.lab = lab
        self.programs = programs
        self.environment = clean_environment()
        self.count = 0
        self.server_pids = {
            "postgres": int(lab.urls["FINALIZER_TEST_POSTGRES_PID"]),
            "rabbitmq": int(lab.urls["FINALIZER_TEST_RABBITMQ_PID"]),
        }

    def next_name(self, name):
        self.count += 1
        return f"{name}_{self.count}"

    def new_finalizer(self, database):
        finalizer = Finalizer(self.lab, self.programs["finalizer"], database)
        finalizer.command("migrate")
        return finalizer

    def start_tool(self, name, *arguments):
        return self.lab.start(self.next_name(name), [self.programs["tools"], name, *arguments], self.environment)

    def run_tool(self, name, *arguments):
        """What it printed, and the CPU seconds that it took."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        tool = self.start_tool(name, *arguments)
        if tool.running.wait() != 0:
            tool.require()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return tool.log.read_text(), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def fill_queue(self, turns, events, ids=RANDOM):
        """How many bytes an event has."""
        printed, _ = self.run_tool("load", self.lab.amqp_url, ids, turns, events)
        wait_for(lambda: self.lab.queue_depths().get(QUEUE) == events, 60, "the queue to hold all events", 1)
        # The broker has things to write still.
        time.sleep(2)
        return int(printed)

    def require_empty_queues(self):
        """What was acknowledged a moment ago may still be counted; a dead letter never ends."""
        wait_for(lambda: not any(self.lab.queue_depths().values()), 30, "the queues to be empty")

    def server_cpu(self):
        return {name: cpu_seconds(children_of(pid)) for name, pid in self.server_pids.items()}

    def drain(self, name, turns, events, database=None, follow=lambda worker: None, ids=RANDOM):
        """One measurement: the queue is filled before the worker starts, and the clock runs from its start
        until all deliveries are recorded."""
        sink = Sink(self, "answer")
        worker = Worker(self, name, sink.url, database)
        event_bytes = self.fill_queue(turns, events, ids)
        worker.settle()
        wal, cpu = worker.wal_bytes(), self.server_cpu()
        began = time.monotonic()
        worker.start()
        follow(worker)
        worker.wait_for(events, began)
        seconds = time.monotonic() - began
        spent = {program: after - cpu[program] for program, after in self.server_cpu().items()}
        spent |= {"worker": worker.process.cpu_seconds(), "receiver": sink.process.cpu_seconds()}
        run = Run(events, event_bytes, seconds, spent, worker.process.peak_memory_mib(), worker.wal_bytes() - wal)
        worker.require_all(events, sink.count())
        self.require_empty_queues()
        worker.end()
        sink.process.kill()
        return run


class Run:
    def __init__(self, events, event_bytes, seconds, cpu, peak_mib, wal_bytes):
        self.event_bytes = event_bytes
        self.rate = events / seconds
        self.cpu_us = {program: cpu[program] * 1e6 / events for program in PROGRAMS}
        self.cpu_us["sum"] = sum(self.cpu_us.values())
        self.peak_mib = peak_mib
        self.wal_bytes = wal_bytes / events


class Worker:
    """One of those that are compared, and its database."""

    def __init__(self, bench, name, webhook_url, database=None):
        self.bench = bench
        self.name = name
        self.is_database_kept = database is not None
        if name == EMBEDDED:
            self.database = SqliteFile(bench.lab.folder / f"{bench.next_name('sqlite')}.db")
        else:
            self.database = database or bench.lab.new_database(bench.next_name("bench"))
        if name in (NAIVE, PIPELINE):
            self.database.run_file(ROOT / "benches" / "tools" / f"{name}.sql")
            command = [name, self.database.url, bench.lab.amqp_url, webhook_url]
            self.launch = lambda: bench.start_tool(*command)
        else:
            self.finalizer = bench.new_finalizer(self.database)
            self.endpoint = self.finalizer.ask("endpoints", "add", webhook_url, "--owner", "all")
            self.launch = lambda: self.finalizer.run(bench.next_name("finalizer"))
        before = self.database.number("SELECT COALESCE(max(id), 0) FROM sessions") if name == FINALIZER and self.is_database_kept else 0
        since = f"'{uuid.UUID(int=int(time.time() * 1000) << 80)}'" if self.is_database_kept else self.database.LEAST_ID
        self.expected = {what: question.format(since=since, before=before) for what, question in EXPECTED[name].items()}

    def settle(self):
        if self.name != EMBEDDED:
            self.database.rows("CHECKPOINT")

    def start(self):
        self.process = self.launch()

    def wait_until_consuming(self):
        if self.name in (NAIVE, PIPELINE):
            self.process.wait_for_line("consuming")
        else:
            self.finalizer.wait_until_ready(self.process)

    def found(self, what):
        return self.database.number(self.expected[what])

    def wal_bytes(self):
        return 0 if self.name == EMBEDDED else self.database.number("SELECT pg_current_wal_insert_lsn() - '0/0'")

    def wait_for(self, events, began):
        """Until so many are delivered. Asks seldom while much is left: counting takes CPU as well."""
        done, changed = 0, time.monotonic()
        while done < events:
            rate = done / (time.monotonic() - began)
            left = (events - done) / rate if rate else 0.2
            time.sleep(min(max(left / 2, 0.01), 0.5))
            self.process.require()
            before, done = done, self.found("delivered")
            if done != before:
                changed = time.monotonic()
            elif time.monotonic() - changed > STALLED_SECONDS:
                raise Failed(f"{self.name} delivered {done} of {events} events, and none for {STALLED_SECONDS} s")

    def require_all(self, events, posts):
        """No figure comes from a run that lost something, or in which a delivery failed."""
        found = {what: self.found(what) for what in self.expected} | {"webhooks received": posts}
        if self.name in (FINALIZER, EMBEDDED):
            found["events without a failure"] = events - self.database.number("SELECT count(*) FROM failures")
        wrong = {what: number for what, number in found.items() if number != events}
        if wrong:
            raise Failed(f"{self.name}: {events} events were published, but " + ", ".join(f"{what}: {n}" for what, n in wrong.items()))

    def end(self):
        self.process.stop()
        if not self.is_database_kept:
            self.database.drop()
        elif self.name == FINALIZER:
            # Whoever is next has an endpoint of its own.
            self.finalizer.command("endpoints", "delete", self.endpoint["id"])


class SqliteFile:
    """A database, asked as one in Postgres is."""

    LEAST_ID = "x''"

    def __init__(self, path):
        self.path = path
        self.url = f"sqlite://{path}"

    def rows(self, question):
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(question).fetchall()
        finally:
            connection.close()

    def number(self, question):
        return int(self.rows(question)[0][0])

    def drop(self):
        for suffix in ("", "-wal", "-shm"):
            path = self.path.with_name(self.path.name + suffix)
            path.unlink(missing_ok=True)


class Sink:
    """A receiver that costs next to nothing."""

    def __init__(self, bench, kind, listeners=1):
        self.process = bench.start_tool("sink", kind, listeners)

        def urls():
            self.process.require()
            found = [line for line in self.process.log.read_text().splitlines() if line.startswith("http")]
            return found if len(found) == listeners else None

        self.urls = wait_for(urls, 30, f"{self.process.name} to listen")
        self.url = self.urls[0]
        self.noted = []

    def count(self):
        """How many webhooks came, to one that answers."""
        return int(get_text(self.url))

    def notes(self):
        """Whose webhook came when, in microseconds, to one that notes."""
        lines = [line.split() for line in get_text(self.url).splitlines()]
        self.noted += [(session_id, int(at)) for session_id, at in lines]
        return self.noted


def load_average():
    return os.getloadavg()[0]
