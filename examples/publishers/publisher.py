"""Publishes events so that none is lost: written to disk first, removed once the broker has confirmed it.

  await Publisher(amqp_url, spool).publish(event)
  python publisher.py AMQP_URL SPOOL        publish what is left in the folder SPOOL

The broker may be away: what it did not confirm stays in the folder and goes out with the next event, or
with the command above. An event may be published twice, which makes no second session.
"""

import asyncio
import hashlib
import json
import logging
import os
import random
import sys
import time
from pathlib import Path

import aio_pika
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

EXCHANGE = "voice.events"
# For a connection, and for a confirm.
ANSWER_SECONDS = 10
# The broker is away, refuses, or has no queue for it: all of it may pass.
TROUBLE = (*CONNECTION_EXCEPTIONS, asyncio.TimeoutError)
logger = logging.getLogger("finalizer.publisher")


class Publisher:
    """One is enough for a process; other processes may use the same folder."""

    def __init__(self, amqp_url, spool, patience_seconds=30):
        self.amqp_url, self.spool, self.patience_seconds = amqp_url, Path(spool), patience_seconds

    async def publish(self, event):
        """True once the broker has confirmed this event and all that waited; else they wait in the folder."""
        body = json.dumps(event, allow_nan=False).encode()
        try:
            await asyncio.to_thread(self._keep, body)
        except OSError:
            logger.exception("the event cannot be kept in %s: it is published all the same", self.spool)
            return await self._try_for_a_while(lambda channel: publish_one(channel, body))
        return await self.flush()

    async def flush(self):
        """Publishes all that waits in the folder, the oldest first. True if nothing is left."""
        return await self._try_for_a_while(self._publish_all)

    def _keep(self, body):
        """Writes the event to the folder, whole or not at all, and to the disk."""
        self.spool.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020}-{hashlib.sha256(body).hexdigest()[:16]}"
        unfinished = self.spool / f"{name}.part"
        with open(unfinished, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.spool / f"{name}.json")
        folder = os.open(self.spool, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def _publish_all(self, channel):
        for path in sorted(self.spool.glob("*.json")):
            try:
                body = path.read_bytes()
            except FileNotFoundError:
                continue  # Another process was faster.
            await publish_one(channel, body)
            path.unlink(missing_ok=True)

    async def _try_for_a_while(self, act):
        """Calls `act` with a channel until it succeeds, at most for as long as the patience lasts."""
        deadline, pause = time.monotonic() + self.patience_seconds, 0.5
        while True:
            try:
                async with await aio_pika.connect(self.amqp_url, timeout=ANSWER_SECONDS) as connection:
                    # With confirms, and what no queue takes is an error.
                    await act(await connection.channel(publisher_confirms=True, on_return_raises=True))
                return True
            except TROUBLE as error:
                left = deadline - time.monotonic()
                if left <= 0:
                    logger.error("not published, kept in %s: %s", self.spool, describe(error))
                    return False
                logger.warning("not published yet, tried again: %s", describe(error))
            await asyncio.sleep(min(left, pause * random.uniform(0.5, 1)))
            pause = min(pause * 2, 10)


async def publish_one(channel, body):
    event = json.loads(body)
    exchange = await channel.get_exchange(EXCHANGE, ensure=False)
    message = aio_pika.Message(
        body, content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=event["event_id"], type=event["type"],
    )
    await exchange.publish(message, event["type"], mandatory=True, timeout=ANSWER_SECONDS)


def describe(error):
    return f"{type(error).__name__}: {error}".rstrip(": ")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(0 if asyncio.run(Publisher(*sys.argv[1:3]).flush()) else 1)
