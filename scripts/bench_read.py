"""What scripts/bench measures of the read API: how long one session takes, at a fixed pace of requests."""

import json
import os
import random
import uuid
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

from bench_history import ONE_EVENT, fill
from bench_report import percentile, spread
from lab import Failed, Finalizer

OWNER = 7
TURNS = 200
# Those that are read: more than any cache holds for one row, and few enough to be checked first.
LONG_SESSIONS = 500
WORDS = ("the order was placed on Tuesday and I would like to know whether it can be changed before it is sent "
         "because my address is another one now and nobody will be at home this week").split()


def long_calls(count):
    """Ends of calls of 200 turns, two to twenty-five words each, with some characters that are not ASCII."""
    chance = random.Random(1)
    start = datetime(2026, 5, 28, 12, tzinfo=timezone.utc)
    for number in range(count):
        at = start + timedelta(minutes=number)
        messages = []
        for turn in range(TURNS):
            at += timedelta(seconds=chance.uniform(1, 8))
            words = " ".join(chance.choices(WORDS, k=chance.randint(2, 25)))
            messages.append({
                "role": "user" if turn % 2 else "assistant", "text": f"{words} – “{number}/{turn}”?", "started_at": at.isoformat(),
            })
        yield {
            "type": "session.ended", "schema_version": 1, "event_id": f"long-{number}", "session_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "tenant_id": "acme", "character_slug": "support-bot", "character_owner": OWNER, "user": 70, "room_name": f"long-{number}",
            "started_at": (start + timedelta(minutes=number)).isoformat(), "ended_at": at.isoformat(), "metadata": {"plan": "pro"},
            "source": {"kind": "messages"}, "messages": messages,
            "usage": [{"type": "llm", "provider": "openai", "model": "gpt-4o-mini", "input_tokens": 184000, "output_tokens": 6120}],
        }


def report_read(lab, programs, options, report):
    database = lab.new_database("read")
    finalizer = Finalizer(lab, programs["finalizer"], database)
    finalizer.command("migrate")
    finalizer.command("ingest", ONE_EVENT)
    fill(database, options.sessions)
    calls = list(long_calls(LONG_SESSIONS))
    events = lab.folder / "long.ndjson"
    events.write_text("".join(json.dumps(call, ensure_ascii=False) + "\n" for call in calls))
    finalizer.command("ingest", events)
    database.rows("VACUUM ANALYZE; CHECKPOINT")
    sessions = lab.folder / "sessions"
    sessions.write_text("".join(call["session_id"] + "\n" for call in calls))
    key = finalizer.ask("keys", "create", "--user", str(OWNER))["key"]
    size = database.number(f"SELECT avg(octet_length(transcript))::int FROM sessions WHERE turn_count = {TURNS}")
    print(f"{options.sessions + LONG_SESSIONS:,} sessions; {LONG_SESSIONS} of {TURNS} turns are read, their transcripts of"
          f" {size:,} bytes on average", flush=True)

    worker = finalizer.run("worker")
    finalizer.wait_until_ready(worker)
    runs = []
    for number in range(options.rounds):
        load = os.getloadavg()[0]
        before = worker.cpu_seconds()
        reader = lab.start(f"read-{number}", [
            programs["tools"], "read", urlsplit(finalizer.url).netloc, key, sessions, TURNS, options.rate, options.seconds,
        ], finalizer.environment)
        if reader.running.wait() != 0:
            reader.require()
        spent = worker.cpu_seconds() - before
        runs.append([tuple(int(us) for us in line.split()) for line in reader.log.read_text().splitlines()])
        if len(runs[-1]) != options.rate * options.seconds:
            raise Failed(f"{len(runs[-1])} requests were measured, not {options.rate * options.seconds}")
        times = sorted(answered / 1000 for _, answered in runs[-1])
        print(f"  p99 {percentile(times, 99):.2f} ms; the machine's load before it {load:.1f}; {spent * 1e6 / len(times):,.0f} µs"
              " of the service's CPU a request, warming up included", flush=True)
    worker.stop()
    print(f"\nms from when a request was due to its whole answer, {options.rate}/s for {options.seconds} s:"
          f" min / median / max of {options.rounds} runs")
    for name, percent in (("p50", 50), ("p99", 99), ("max", 100)):
        answered = [percentile(sorted(answered / 1000 for _, answered in run), percent) for run in runs]
        sent = [percentile(sorted(sent / 1000 for sent, _ in run), percent) for run in runs]
        print(f"  {name}{spread(answered, ',.2f'):>28}   (of being sent alone{spread(sent, ',.2f'):>24})", flush=True)
