#!/usr/bin/env python3
"""A receiver for scripts/chaos: verifies each webhook, reads its session before it answers, and writes
down when the webhook arrived, what it read and what it answered. How it behaves stands in a file:
ok, error, slow_error, slow_ok, hang or reset."""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
import urllib.parse
from pathlib import Path

# The API is asked again for so long while it cannot answer.
ASK_FOR_SECONDS = 8
PAUSES = {"slow_error": 3, "slow_ok": 5, "hang": 20}


class Receiver:
    def __init__(self, options):
        self.key = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
        self.api_key = os.environ["FINALIZER_API_KEY"]
        self.api = urllib.parse.urlsplit(options.api_url)
        self.behaviour = options.behaviour
        self.log = open(options.log, "a", buffering=1)

    async def serve(self, reader, writer):
        """One connection; it may carry many webhooks."""
        try:
            while (request := await read_message(reader)) is not None:
                await self.take(request, reader, writer)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()

    async def take(self, request, reader, writer):
        _, headers, body = request
        arrived = time.time()
        behaviour = self.behaviour.read_text().strip() if self.behaviour.exists() else "ok"
        line = {
            "at": arrived, "webhook_id": headers.get("webhook-id"), "verified": self.is_signed(headers, body),
            "sha256": hashlib.sha256(body).hexdigest(), "behaviour": behaviour,
        }
        if line["verified"]:
            event = json.loads(body)
            line.update(type=event["type"], session_id=event["data"].get("session_id"))
        # Slowness is a behaviour.
        await asyncio.sleep(PAUSES.get(behaviour, 0))
        status = 400 if not line["verified"] else 500
        if line["verified"] and behaviour in ("ok", "slow_ok", "hang"):
            line["read"] = await self.read_session(line["session_id"])
            status = 204 if line["read"] == 200 else 503
        # Who has hung up meanwhile gets no answer.
        line["answer"] = 0 if behaviour == "reset" or reader.at_eof() else status
        self.log.write(json.dumps(line) + "\n")
        if behaviour == "reset":
            writer.transport.abort()
            raise ConnectionResetError
        writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()

    def is_signed(self, headers, body):
        signed = f"{headers.get('webhook-id')}.{headers.get('webhook-timestamp')}.".encode() + body
        right = "v1," + base64.b64encode(hmac.digest(self.key, signed, "sha256")).decode()
        return any(hmac.compare_digest(right, one) for one in headers.get("webhook-signature", "").split(" "))

    async def read_session(self, session_id):
        """The status of a GET of the session; the first that is an answer."""
        deadline = time.monotonic() + ASK_FOR_SECONDS
        while (status := await self.ask(session_id)) == 0 or status >= 500:
            if time.monotonic() > deadline:
                break
            # The API may be restarting: asked again until it answers.
            await asyncio.sleep(0.3)
        return status

    async def ask(self, session_id):
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(self.api.hostname, self.api.port)
                writer.write(
                    f"GET /api/billing/sessions/{session_id}/ HTTP/1.1\r\nhost: {self.api.netloc}\r\n"
                    f"x-api-key: {self.api_key}\r\nconnection: close\r\n\r\n".encode()
                )
                answer = await read_message(reader)
                writer.close()
                return int(answer[0].split(" ")[1]) if answer else 0
        except (OSError, ValueError, IndexError, TimeoutError, asyncio.IncompleteReadError):
            return 0


async def read_message(reader):
    """The first line, the headers and the body of a request or an answer; None at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return first, headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-url", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--behaviour", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    server = await asyncio.start_server(Receiver(options).serve, "127.0.0.1", options.port, backlog=512)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
