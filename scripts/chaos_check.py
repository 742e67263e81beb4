#!/usr/bin/env python3
"""Checks the promises for scripts/chaos, from outside: it knows the log of what the broker confirmed, what
the receivers wrote down, and the database. Watches until its input ends, then looks at everything;
writes what it found to result.json."""

import argparse
import collections
import itertools
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

LOST = "nothing is lost"
ONCE = "exactly-once effect"
EARLY = "no webhook before the session is readable"
FORGOTTEN = "no delivery is forgotten"

# What no statement of the product may do, and what explains that a POST is repeated, written down by the
# database itself. A delivery is released when its process is dead, or gives it back.
AUDIT = """
CREATE TABLE chaos_released (delivery_id UUID, at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp());
CREATE TABLE chaos_undone (what TEXT, id TEXT, at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION chaos_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO chaos_released (delivery_id) VALUES (OLD.delivery_id); RETURN NULL; END $$;
CREATE FUNCTION chaos_undo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO chaos_undone (what, id) VALUES (TG_ARGV[0], OLD::text); RETURN NULL; END $$;
CREATE TRIGGER chaos_release AFTER UPDATE ON deliveries FOR EACH ROW
    WHEN (OLD.state = 'pending' AND NEW.state = 'pending' AND OLD.process_id IS NOT NULL
          AND NEW.process_id IS NULL AND OLD.attempts = NEW.attempts)
    EXECUTE FUNCTION chaos_release();
CREATE TRIGGER chaos_final AFTER UPDATE ON deliveries FOR EACH ROW
    WHEN (OLD.state <> 'pending' AND NEW.state <> OLD.state)
    EXECUTE FUNCTION chaos_undo('a delivery that had ended has begun again');
CREATE TRIGGER chaos_gone AFTER DELETE ON deliveries FOR EACH ROW
    EXECUTE FUNCTION chaos_undo('a delivery is gone');
CREATE TRIGGER chaos_session AFTER UPDATE ON sessions FOR EACH ROW
    WHEN (OLD.finalized_at IS NOT NULL AND (NEW.finalized_at IS DISTINCT FROM OLD.finalized_at
          OR NEW.revision <> OLD.revision OR NEW.digest <> OLD.digest))
    EXECUTE FUNCTION chaos_undo('a finalized session is another');
CREATE TRIGGER chaos_session_gone AFTER DELETE ON sessions FOR EACH ROW
    EXECUTE FUNCTION chaos_undo('a session is gone');
"""


def ask(database_url, question):
    """The rows, as lists of text; None while the database is away."""
    command = ["psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--no-align", "--tuples-only",
               "--field-separator=\t", f"--dbname={database_url}", f"--command={question}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return [line.split("\t") for line in done.stdout.splitlines()] if done.returncode == 0 else None


class Log:
    """The lines of a growing file of JSON."""

    def __init__(self, path):
        self.path = path
        self.offset = 0

    def new_lines(self):
        if not self.path.exists():
            return []
        with open(self.path, "rb") as log:
            log.seek(self.offset)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class Checker:
    def __init__(self, options):
        self.database_url = options.database_url
        self.folder = options.folder
        self.endpoints = dict(endpoint.split("=") for endpoint in options.endpoint)
        self.confirmed = Log(self.folder / "confirmed.ndjson")
        self.logs = {name: Log(self.folder / f"{name}.ndjson") for name in self.endpoints}
        self.events = {}
        self.copies = 0
        self.waiting = {}
        self.oldest_wait = 0
        self.posts = collections.defaultdict(list)
        self.bodies = {}
        self.unasked = 0
        self.violations = {}
        self.undone = 0

    def violate(self, promise, what, example):
        found = self.violations.setdefault((promise, what), [0, str(example)])
        found[0] += 1
        if found[0] == 1:
            print(f"BROKEN: {promise}: {what}: {example}", flush=True)

    # ---- while it goes on ----

    def watch(self):
        while not select.select([sys.stdin], [], [], 2)[0]:
            self.read_logs()
            self.look_for_undone()
            self.look_for_waiting()

    def read_logs(self):
        for event in self.confirmed.new_lines():
            if event["sha256"] in self.events:
                self.copies += 1
                continue
            self.events[event["sha256"]] = event
            if event["kind"] in ("ended", "conflict"):
                self.waiting.setdefault(event["session_id"], event["at"])
        for name, log in self.logs.items():
            for post in log.new_lines():
                self.read_post(name, post)

    def read_post(self, name, post):
        message_id = post["webhook_id"]
        self.posts[name, message_id].append((post["at"], post["answer"]))
        if not post["verified"]:
            return self.violate(ONCE, "a webhook has a wrong signature", message_id)
        if self.bodies.setdefault(message_id, post["sha256"]) != post["sha256"]:
            self.violate(ONCE, "copies of a webhook differ", message_id)
        read = post.get("read", 200)
        if read == 0 or read >= 500:
            self.unasked += 1
        elif read != 200:
            self.violate(EARLY, f"a receiver that read the session at once got {read}", post["session_id"])

    def look_for_undone(self):
        rows = ask(self.database_url, "SELECT what, id FROM chaos_undone ORDER BY at")
        for what, row in (rows or [])[self.undone:]:
            self.violate(FORGOTTEN if "delivery" in what else ONCE, what, row[:200])
        self.undone = max(self.undone, len(rows or []))

    def look_for_waiting(self):
        """How long the ends of calls wait for their sessions."""
        some = list(itertools.islice(self.waiting, 2000))
        if not some:
            return
        ids = ",".join(f"'{session_id}'" for session_id in some)
        rows = ask(
            self.database_url,
            f"SELECT session_id FROM sessions WHERE finalized_at IS NOT NULL AND session_id IN ({ids})",
        )
        for row in rows or []:
            self.waiting.pop(row[0], None)
        if rows is not None and self.waiting:
            self.oldest_wait = max(self.oldest_wait, time.time() - min(self.waiting.values()))

    # ---- at the end ----

    def finish(self):
        self.read_logs()
        self.look_for_undone()
        self.load()
        self.check_events()
        self.check_failures()
        self.check_messages()
        self.check_deliveries()
        self.check_posts()
        return self.result()

    def all(self, question):
        rows = ask(self.database_url, question)
        if rows is None:
            sys.exit(f"the database does not answer: {question}")
        return rows

    def load(self):
        self.sessions = {
            row[0]: row[1:] for row in self.all(
                "SELECT session_id, finalized_at IS NOT NULL, revision, metadata, recording_status FROM sessions"
            )
        }
        self.egresses = {row[0] for row in self.all("SELECT named_session_id FROM egresses")}
        self.failures = collections.defaultdict(list)
        for digest, code in self.all("SELECT encode(raw_sha256, 'hex'), code FROM failures"):
            self.failures[digest].append(code)
        self.messages = {
            row[0]: (row[1], row[2])
            for row in self.all("SELECT 'msg_' || encode(message_id, 'hex'), type, session_id FROM messages")
        }
        self.deliveries = {
            (row[0], row[1]): row[2:] for row in self.all(
                "SELECT endpoint_id, 'msg_' || encode(message_id, 'hex'), delivery_id, state, attempts"
                " FROM deliveries JOIN messages ON row_id = message_row"
            )
        }
        self.released = collections.defaultdict(list)
        for row in self.all("SELECT delivery_id, EXTRACT(EPOCH FROM at) FROM chaos_released ORDER BY at"):
            self.released[row[0]].append(float(row[1]))
        self.by_session = collections.defaultdict(dict)
        for event in self.events.values():
            self.by_session[event["session_id"]][event["kind"]] = event

    def check_events(self):
        for digest, event in self.events.items():
            if digest not in self.failures and not self.has_effect(event):
                self.violate(LOST, f"a confirmed event has no effect and is no failure ({event['kind']})", event)

    def has_effect(self, event):
        kind, session_id = event["kind"], event["session_id"]
        session = self.sessions.get(session_id)
        if kind in ("active", "complete"):
            ended = "ended" in self.by_session[session_id]
            return session[3] in self.recording_statuses(session_id) if session and ended else session_id in self.egresses
        if session is None:
            return False
        if kind == "started":
            return True
        variant = {"ended": "first", "conflict": "second"}.get(kind)
        return session[0] == "t" and json.loads(session[2])["variant"] == variant

    def recording_statuses(self, session_id):
        return ["READY"] if "complete" in self.by_session[session_id] else ["PENDING"]

    def check_failures(self):
        self.codes = collections.Counter(code for codes in self.failures.values() for code in codes)
        for digest, codes in self.failures.items():
            event = self.events.get(digest)
            if event is None:
                self.violate(ONCE, "a failure of an event that nobody published", (digest, codes))
                continue
            kind = event["kind"]
            expected = kind[4:] if kind.startswith("bad:") else "conflicting_event" if kind in ("ended", "conflict") else None
            if codes != [expected]:
                self.violate(LOST, f"an event ({kind}) became a failure that it is not", codes)
            elif kind in ("ended", "conflict") and self.has_effect(event):
                self.violate(ONCE, "an event is a session and a failure at once", event)

    def check_messages(self):
        expected = set()
        for session_id, events in self.by_session.items():
            if "ended" in events or "conflict" in events:
                expected.add(("session.finalized", session_id))
                if "complete" in events:
                    expected.add(("session.recording_ready", session_id))
        stored = collections.Counter(self.messages.values())
        for message in expected - set(stored):
            self.violate(FORGOTTEN, "a message is missing", message)
        for message in set(stored) - expected:
            self.violate(ONCE, "a message that nothing calls for", message)
        for message, count in stored.items():
            if count > 1:
                self.violate(ONCE, f"{count} messages where one is right", message)
        for session_id, session in self.sessions.items():
            if session_id not in self.by_session:
                self.violate(ONCE, "a session that nobody published", session_id)
            elif session[1] not in ("0", "1"):
                self.violate(ONCE, "a session was finalized more than once", (session_id, session))

    def check_deliveries(self):
        for name, endpoint in self.endpoints.items():
            for message in self.messages:
                delivery = self.deliveries.get((endpoint, message))
                if delivery is None:
                    self.violate(FORGOTTEN, "a delivery is missing", (name, message))
                elif delivery[1] == "pending":
                    self.violate(FORGOTTEN, "a delivery is still pending", (name, message, delivery))
                elif delivery[1] == "delivered" and not any(answer == 204 for _, answer in self.posts[name, message]):
                    self.violate(FORGOTTEN, "a delivery counts as delivered, and nobody took it", (name, message))
        self.states = collections.Counter(delivery[1] for delivery in self.deliveries.values())

    def check_posts(self):
        """A webhook that was taken comes again only if the process that sent it was lost in between;
        and no more often than it was attempted and released."""
        self.repeated = self.bound = 0
        for (name, message), posts in self.posts.items():
            delivery = self.deliveries.get((self.endpoints[name], message))
            if delivery is None:
                self.violate(EARLY, "a webhook of a delivery that was never committed", (name, message))
                continue
            delivery_id, _, attempts = delivery
            released = self.released[delivery_id]
            posts.sort()
            self.repeated += max(0, len(posts) - max(int(attempts), 1))
            if len(posts) > int(attempts) + len(released):
                self.violate(ONCE, "a webhook came more often than crashes explain", (name, message, posts))
            for (sent, answer), (again, _) in itertools.pairwise(posts):
                if answer == 204 and not any(sent < at < again for at in released):
                    self.violate(ONCE, "a webhook that was taken came again, and nobody had lost it", (name, message, posts))
        self.bound = sum(len(released) for released in self.released.values())

    def result(self):
        kinds = collections.Counter(event["kind"].split(":")[0] for event in self.events.values())
        return {
            "confirmed": len(self.events) + self.copies, "distinct": len(self.events), "copies": self.copies,
            "kinds": kinds, "sessions": len(self.sessions),
            "finalized": sum(session[0] == "t" for session in self.sessions.values()),
            "failures": self.codes, "messages": len(self.messages), "deliveries": self.states,
            "webhooks": sum(len(posts) for posts in self.posts.values()),
            "repeated": self.repeated, "bound": self.bound, "unasked": self.unasked,
            "oldest_wait": self.oldest_wait,
            "violations": [
                {"promise": promise, "what": what, "count": count, "example": example}
                for (promise, what), (count, example) in self.violations.items()
            ],
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--endpoint", action="append", metavar="NAME=ID", required=True)
    options = parser.parse_args()
    checker = Checker(options)
    checker.watch()
    result = checker.finish()
    new = options.folder / "result.new"
    new.write_text(json.dumps(result, indent=1))
    os.replace(new, options.folder / "result.json")
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
