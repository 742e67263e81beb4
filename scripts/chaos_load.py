"""The events that scripts/chaos publishes, and who publishes them and writes down what was confirmed."""

import copy
import datetime
import hashlib
import json
import random
import subprocess
import threading
import time

from samples import new_id, sample_calls, sample_recordings, session_events

# Long calls would only make the run longer.
CALLS = ["call_pipecat", "call_no_speech", "call_livekit_1_3", "call_agents_js", "call_hangup_mid_speech"]
# The same seed makes the same bytes.
NOW = datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.timezone.utc)
# Events that wait to be published, in any order.
POOL = 400
BATCH = 100


def bad_event(chance, ended):
    """An event that must become a failure, and its code."""
    code = chance.choice(["malformed_json", "unsupported_type", "unsupported_version", "invalid_event"])
    event = {**ended, "event_id": new_id(chance), "session_id": new_id(chance)}
    if code == "malformed_json":
        return json.dumps(event)[:-20], code
    if code == "unsupported_type":
        event["type"] = "session.sneezed"
    if code == "unsupported_version":
        event["schema_version"] = 99
    if code == "invalid_event":
        del event["tenant_id"]
    return json.dumps(event), code


def sessions(chance):
    """For ever: the events of one new session, each with what must become of it."""
    calls, recordings = sample_calls(), sample_recordings()
    while True:
        session_id = new_id(chance)
        started, ended, active, complete = session_events(
            calls[chance.choice(CALLS)], recordings, session_id, chance, NOW
        )
        ended["metadata"] = {"variant": "first"}
        events, recorded = [], chance.random()
        if recorded < 0.7:
            events.append(("active", active))
        else:
            ended["recording"] = {"expected": False}
        if recorded < 0.6:
            events.append(("complete", complete))
        if chance.random() < 0.6:
            events.append(("started", started))
        if chance.random() < 0.98 or not events:
            events.append(("ended", ended))
            if chance.random() < 0.05:
                second = copy.deepcopy(ended)
                second.update(event_id=new_id(chance), metadata={"variant": "second"})
                events.append(("conflict", second))
        made = [(kind, json.dumps(event), session_id) for kind, event in events]
        if chance.random() < 0.03:
            raw, code = bad_event(chance, ended)
            made.append((f"bad:{code}", raw, None))
        yield [note(*event) for event in made]


def note(kind, raw, session_id):
    digest = hashlib.sha256(raw.encode()).hexdigest()
    return raw, {"kind": kind, "session_id": session_id, "sha256": digest}


def events(seed, count, copies):
    """So many different events and so many copies, mixed: an event and its copies, and what belongs
    to one session, come in any order."""
    chance = random.Random(f"{seed} events")
    copied = set(chance.sample(range(count), copies))
    source = (event for session in sessions(chance) for event in session)
    pool, number = [], 0
    while number < count or pool:
        while number < count and len(pool) < POOL:
            raw, line = next(source)
            pool += [(raw, line)] * (2 if number in copied else 1)
            number += 1
        place = chance.randrange(len(pool))
        pool[place], pool[-1] = pool[-1], pool[place]
        yield pool.pop()


class Publisher:
    """Publishes with the product's own command, again and again until the broker has confirmed
    a batch as a whole; only then the batch stands in the log."""

    def __init__(self, finalizer, folder, options):
        self.finalizer = finalizer
        self.folder = folder
        self.source = events(options.seed, options.events, options.duplicates)
        self.total = options.events + options.duplicates
        fault_seconds = options.away if "postgres_away" in options.kinds else 5
        self.pause = fault_seconds * BATCH * max(options.faults, 1) / self.total
        self.log = open(folder / "confirmed.ndjson", "a", buffering=1)
        self.lock = threading.Lock()
        self.allowed = self.published = self.again = 0
        self.failed = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def allow(self, part):
        """So much of everything may be published by now."""
        self.allowed = max(self.allowed, round(self.total * part))

    def run(self):
        try:
            batch = []
            for event in self.source:
                batch.append(event)
                if len(batch) == BATCH:
                    self.publish_when_allowed(batch)
                    batch = []
            self.publish_when_allowed(batch)
        except Exception as error:
            self.failed = error

    def publish_when_allowed(self, batch):
        while self.published + len(batch) > self.allowed and self.allowed < self.total:
            # Looks again whether it may.
            time.sleep(0.05)
        self.publish("load", batch)
        self.published += len(batch)
        if self.allowed < self.total:
            # The load is spread over the run.
            time.sleep(self.pause)

    def publish(self, name, batch):
        """Returns once the broker has confirmed all of it; when that was."""
        if not batch:
            return time.time()
        path = self.folder / f"{name}.ndjson"
        path.write_text("".join(raw + "\n" for raw, _ in batch))
        command = [self.finalizer.binary, "publish", path]
        with open(self.folder / "publish.log", "ab") as log:
            while subprocess.run(command, env=self.finalizer.environment, stdout=log, stderr=log).returncode != 0:
                self.again += len(batch)
                # The broker is away: a fault.
                time.sleep(0.2)
        now = time.time()
        with self.lock:
            for _, line in batch:
                self.log.write(json.dumps({**line, "at": now}) + "\n")
        return now

    def probe(self, chance):
        """Publishes a session of its own; its id."""
        session_id = new_id(chance)
        call = sample_calls()["call_no_speech"]
        _, ended, *_ = session_events(call, sample_recordings(), session_id, chance, NOW)
        ended.update(metadata={"variant": "first"}, recording={"expected": False})
        self.publish("probe", [note("ended", json.dumps(ended), session_id)])
        return session_id

    def finish(self):
        self.allow(1)
        self.thread.join()
        if self.failed:
            raise self.failed
