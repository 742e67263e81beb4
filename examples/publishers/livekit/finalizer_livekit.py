"""What a LiveKit Agents call becomes: the event that ends it."""

from datetime import datetime, timezone

# Noise that grows with every second of the call.
LEFT_OUT = ("events", "options")


def session_ended(report, *, session_id, tenant_id, character_slug, character_owner, **more):
    """The event for `ctx.make_session_report()`; `more` are other fields of `session.ended`."""
    body = {name: value for name, value in report.to_dict().items() if name not in LEFT_OUT}
    # System prompts and what tools were given and said are nobody's business but the worker's.
    body["chat_history"]["items"] = [item for item in body["chat_history"]["items"] if is_said(item)]
    return {
        "type": "session.ended",
        "schema_version": 1,
        # The same for every copy.
        "event_id": f"{session_id}-ended",
        "occurred_at": to_text(report.timestamp),
        "session_id": session_id,
        "tenant_id": tenant_id,
        "character_slug": character_slug,
        "character_owner": character_owner,
        # No release has it in `to_dict()`.
        "started_at": to_text(report.started_at),
        "ended_at": to_text(report.timestamp),
        "source": {"kind": "livekit_session_report"},
        "report": body,
        **more,
    }


def is_said(item):
    return item["type"] == "message" and item["role"] in ("user", "assistant")


def to_text(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
