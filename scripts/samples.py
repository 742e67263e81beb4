"""Sessions made from the sample calls: each a real call, moved in time, with ids of its own."""

import copy
import datetime
import json
import re
import uuid

from lab import ROOT

EXAMPLES = ROOT / "tests" / "fixtures" / "events"
STARTED_FIELDS = [
    "schema_version", "tenant_id", "character_slug", "character_owner", "user", "room_name",
    "room_id", "origin_url", "metadata", "started_at",
]
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


def sample_calls():
    return {file.stem: json.loads(file.read_text()) for file in sorted(EXAMPLES.glob("call_*.json"))}


def sample_recordings():
    """One that goes on, and the same when it is complete."""
    return [json.loads((EXAMPLES / f"recording_{name}.json").read_text()) for name in ("active", "complete")]


def new_id(chance):
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def session_events(call, recordings, session_id, chance, now=None):
    """The events of one new session: a real call, moved to the last hour, with ids of its own."""
    mark = session_id.replace("-", "")[:16]
    room = {"room_id": f"RM_{mark}", "room_name": f"room-{mark}"}
    began = parse_time(call["started_at"])
    now = now or datetime.datetime.now(tz=datetime.timezone.utc)
    by = round((now - began).total_seconds()) - chance.randrange(60, 3600)
    ended = shifted(call, by)
    ended.update(room, session_id=session_id, recording={"expected": True, "egress_id": f"EG_{mark}"})
    if "report" in ended:
        ended["report"].update(room_id=room["room_id"], room=room["room_name"])
    started = {key: ended[key] for key in STARTED_FIELDS if key in ended}
    started.update(type="session.started", session_id=session_id)
    events = [started, ended]
    egress_by = round(began.timestamp()) + by - int(recordings[0]["egress"]["startedAt"]) // 10**9
    for recording in recordings:
        event = shifted(recording, egress_by)
        event["session_id"] = session_id
        event["egress"].update(egressId=f"EG_{mark}", roomId=room["room_id"], roomName=room["room_name"])
        events.append(event)
    for event in events:
        event["event_id"] = new_id(chance)
    return events


def shifted(value, seconds):
    """A copy in which every time is so many seconds later: numbers of seconds, milliseconds or
    (in strings, as LiveKit's egress writes them) nanoseconds since 1970, and ISO times."""
    if isinstance(value, dict):
        return {key: shifted(item, seconds) for key, item in value.items()}
    if isinstance(value, list):
        return [shifted(item, seconds) for item in value]
    if isinstance(value, (int, float)) and 1e9 < value < 1e10:
        return value + seconds
    if isinstance(value, (int, float)) and 1e12 < value < 1e13:
        return value + seconds * 1000
    if isinstance(value, str) and value.isdecimal() and 1e18 < int(value) < 1e19:
        return str(int(value) + seconds * 10**9)
    if isinstance(value, str) and ISO_TIME.fullmatch(value):
        return (parse_time(value) + datetime.timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    return copy.copy(value)


def parse_time(value):
    """From ISO text, or seconds or milliseconds since 1970."""
    if isinstance(value, (int, float)):
        seconds = value / 1000 if value > 1e11 else value
        return datetime.datetime.fromtimestamp(seconds, tz=datetime.timezone.utc)
    return datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
