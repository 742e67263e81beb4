"""Checks the vectors of `signatures.json` with the published library: verify.py FILE"""

import datetime
import json
import sys
from unittest import mock

from standardwebhooks import Webhook, WebhookVerificationError


def main(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)["vectors"]
    broken = [sentence for vector in vectors if (sentence := problem(vector))]
    for sentence in broken:
        print(f"python: {sentence}", file=sys.stderr)
    if broken or not vectors:
        sys.exit(f"python: {len(broken)} of {len(vectors)} vectors do not hold")
    print(f"python: {len(vectors)} vectors hold")


def problem(vector):
    """What does not hold of this vector, if anything."""
    error = verify(vector)
    if error is None:
        return None if vector["verifies"] else f"{vector['name']}: it must be refused"
    if vector["verifies"]:
        return f"{vector['name']}: it must be accepted: {error!r}"
    refusal = vector.get("python", {"raises": "WebhookVerificationError"})["raises"]
    is_refusal = refusal in (kind.__name__ for kind in type(error).__mro__)
    is_about_time = "timestamp" in str(error)
    if is_refusal and not is_about_time:
        return None
    return f"{vector['name']}: it must be refused for its signature, by a {refusal}: {error!r}"


def verify(vector):
    """The error that the library raises, if any."""
    headers = {
        "webhook-id": vector["id"],
        "webhook-timestamp": str(vector["timestamp"]),
        "webhook-signature": vector["header"],
    }
    with mock.patch("standardwebhooks.webhooks.datetime", clock_that_stands_at(vector["timestamp"])):
        try:
            Webhook(vector["secret"]).verify(vector["body"].encode(), headers, json_parse=False)
        except Exception as error:
            return error
    return None


def clock_that_stands_at(timestamp):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(timestamp, tz)

    return Clock


main(sys.argv[1])
