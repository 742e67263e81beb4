#!/usr/bin/env python3
"""Receives Finalizer's webhooks: verifies each one, then reads the session it tells of.

The signature covers the bytes as they came. Verify first, with the raw body; parse afterwards.
"""

import argparse
import hashlib
import json
import os
import sys
import threading
import urllib.error
import urllib.request
import uuid
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES = 2 * 1024 * 1024


class Receiver(ThreadingHTTPServer):
    """What all requests share."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address, webhook, api_url, api_key, log):
        super().__init__(address, Handler)
        self.webhook = webhook
        self.api_url = api_url.rstrip("/")
        self.api_key = api_key
        self.log = log
        self.log_lock = threading.Lock()

    def read_session(self, session_id):
        """GETs the session; the status, or 0 when the API did not answer."""
        request = urllib.request.Request(
            f"{self.api_url}/api/billing/sessions/{session_id}/",
            headers={"X-API-Key": self.api_key},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                json.load(response)
                return response.status
        except urllib.error.HTTPError as error:
            return error.code
        except (OSError, HTTPException, ValueError):
            return 0

    def handle_error(self, request, client_address):
        # A connection that breaks is no news: the webhook is sent again.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def note(self, **line):
        with self.log_lock:
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()


class Handler(BaseHTTPRequestHandler):
    """One connection from Finalizer; it may carry many webhooks."""

    protocol_version = "HTTP/1.1"
    # Status line and headers leave together: two small packets would wait for each other.
    wbufsize = -1
    timeout = 60

    def do_POST(self):
        body = self.read_body()
        if body is None:
            return self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        message_id = self.headers.get("webhook-id")
        sha256 = hashlib.sha256(body).hexdigest()
        try:
            event = self.server.webhook.verify(body, dict(self.headers))
        # The package lets errors of base64 and UTF-8 through, which are ValueErrors.
        except (WebhookVerificationError, ValueError):
            self.server.note(webhook_id=message_id, verified=False, sha256=sha256)
            return self.answer(HTTPStatus.BAD_REQUEST)
        session_id, status = event["data"].get("session_id"), None
        if session_id is not None:
            status = self.server.read_session(uuid.UUID(session_id))
        self.server.note(
            webhook_id=message_id, type=event["type"], session_id=session_id, verified=True,
            status=status, sha256=sha256,
        )
        # Whatever is not 2xx is sent again later, under the same webhook-id.
        is_read = status in (None, HTTPStatus.OK)
        self.answer(HTTPStatus.NO_CONTENT if is_read else HTTPStatus.SERVICE_UNAVAILABLE)

    def read_body(self):
        """The raw bytes, or nothing if their length is missing or too large."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def answer(self, status):
        self.send_response(status)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", "0")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format, *arguments):
        """The log file says it all."""


def setting(name):
    return os.environ.get(name) or sys.exit(f"set {name} in the environment")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", default="127.0.0.1:9000", metavar="HOST:PORT")
    parser.add_argument("--api-url", default="http://127.0.0.1:8080", help="where Finalizer's API is")
    parser.add_argument("--log", default="webhooks.ndjson", help="one line per request is added to it")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    with open(options.log, "a") as log:
        receiver = Receiver(
            (host, int(port)), Webhook(setting("WEBHOOK_SECRET")), options.api_url,
            setting("FINALIZER_API_KEY"), log,
        )
        print(f"listening on http://{host}:{receiver.server_port}", flush=True)
        receiver.serve_forever()


if __name__ == "__main__":
    main()
