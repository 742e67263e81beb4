"""Publishes events so that none is lost: written to disk first, removed once the broker has confirmed it.

  await Publisher(amqp_url, spool).publish(event)
  python publisher.py AMQP_URL SPOOL        publish what is left in the folder SPOOL

The broker may be away: what it did not confirm stays in the folder and goes out with the next event, or
with the command above. An event may be published twice, which makes no second session. What can never be
published is renamed to `*.bad`, and the reason is logged.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import random
import sys
import threading
import time
from pathlib import Path

import aio_pika
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelPreconditionFailed

EXCHANGE = "voice.events"
# For a connection, and for a confirm.
ANSWER_SECONDS = 10
# The broker is away, refuses, or has no queue for it: all of it may pass.
TROUBLE = (*CONNECTION_EXCEPTIONS, asyncio.TimeoutError)
# What a file may raise that holds no event: no JSON, no object, a field that is missing.
NO_EVENT = (ValueError, KeyError, TypeError, RecursionError)
# A file that is not finished by then never will be: its process has died.
UNFINISHED_SECONDS = 3600
logger = logging.getLogger("finalizer.publisher")


class Publisher:
    """One is enough for a process; other processes may use the same folder."""

    def __init__(self, amqp_url, spool, patience_seconds=30):
        self.amqp_url, self.spool, self.patience_seconds = amqp_url, Path(spool), patience_seconds
        # Not asyncio's: threads, each with an event loop of its own, may share a publisher.
        self._sending = threading.Lock()
        # Confirmed by the broker, but the folder does not let us remove them.
        self._confirmed = set()

    async def publish(self, event):
        """True once the broker has confirmed the event; False if it waits in the folder.

        Raises a KeyError, TypeError or ValueError if it can never be published, and an OSError if it could
        neither be kept nor published.
        """
        body = json.dumps(event, allow_nan=False).encode()
        message_of(body)
        try:
            path = await asyncio.to_thread(self._keep, body)
        except OSError as error:
            logger.error("the event cannot be kept in %s and is published all the same: %s", self.spool, describe(error))
            if await self._publish_unkept(body):
                return True
            raise

        def is_published():
            return path in self._confirmed or not (path.exists() or bad(path).exists())

        await self._try_for_a_while(self._publish_all, is_published)
        return is_published()

    async def flush(self):
        """Publishes all that waits in the folder, the oldest first. True if nothing is left, no `*.bad` either."""
        self._remove_unfinished()
        await self._try_for_a_while(self._publish_all, lambda: not self._names("*.json"))
        waiting, set_aside = len(self._names("*.json")), len(self._names("*.bad"))
        if waiting or set_aside:
            logger.error("in %s are %d events that wait and %d *.bad", self.spool, waiting, set_aside)
        return not waiting and not set_aside

    def _names(self, pattern):
        return sorted(self.spool.glob(pattern))

    def _keep(self, body):
        """Writes the event to the folder, whole or not at all, and to the disk."""
        self.spool.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020}-{hashlib.sha256(body).hexdigest()[:16]}"
        unfinished, path = self.spool / f"{name}.part", self.spool / f"{name}.json"
        try:
            with open(unfinished, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        folder = os.open(self.spool, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return path

    def _remove_unfinished(self):
        for path in self._names("*.part"):
            try:
                if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                    path.unlink()
                    logger.warning("%s was never finished and is removed", path)
            except FileNotFoundError:
                continue  # Another process was faster.
            except OSError as error:
                logger.error("%s was never finished and cannot be removed: %s", path, describe(error))

    async def _publish_unkept(self, body):
        confirmed = []

        async def publish(connection, _deadline):
            await publish_one(await open_channel(connection), message_of(body))
            confirmed.append(True)

        await self._try_for_a_while(publish, lambda: bool(confirmed))
        return bool(confirmed)

    async def _publish_all(self, connection, deadline):
        async with alone_in(self.spool, deadline):
            channel = await open_channel(connection)
            for path in self._names("*.json"):
                if channel.is_closed:
                    channel = await open_channel(connection)
                if path in self._confirmed or await publish_file(channel, path):
                    self._remove(path)

    def _remove(self, path):
        try:
            path.unlink(missing_ok=True)
            self._confirmed.discard(path)
        except OSError as error:
            # Not sent again and again because of that, nor told again and again.
            if path not in self._confirmed:
                logger.error("%s is published and cannot be removed: %s", path, describe(error))
            self._confirmed.add(path)

    async def _try_for_a_while(self, act, is_done):
        """Calls `act` with a connection until it succeeds, at most for as long as the patience lasts. One caller
        after the other: the first sends what all of them wait for, and it `is_done` for the others."""
        deadline, pause = time.monotonic() + self.patience_seconds, 0.5
        while True:
            try:
                await taken(lambda: self._sending.acquire(blocking=False), deadline)
                try:
                    if not is_done():
                        async with await aio_pika.connect(self.amqp_url, timeout=ANSWER_SECONDS) as connection:
                            await act(connection, deadline)
                    return
                finally:
                    self._sending.release()
            except ChannelPreconditionFailed:
                raise  # It will not pass.
            except TROUBLE as error:
                left = deadline - time.monotonic()
                if is_done():
                    return
                if left <= 0:
                    logger.error("not published: %s", describe(error))
                    return
                logger.warning("not published yet, tried again: %s", describe(error))
            await asyncio.sleep(min(left, pause * random.uniform(0.5, 1)))
            pause = min(pause * 2, 10)


@contextlib.asynccontextmanager
async def alone_in(spool, deadline):
    """While no other process sends what waits in the folder."""
    folder = os.open(spool, os.O_RDONLY)
    try:
        await taken(lambda: is_locked(folder), deadline)
        yield
    finally:
        # A child of this process may have the folder open, too, and would keep it locked.
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)
        os.close(folder)


def is_locked(folder):
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some network file systems lock no folders: two processes may then send the same event.
        return True
    return True


async def taken(try_to_take, deadline):
    """Asks until it is ours. It may be another thread or process that has it, so that nobody could wake us."""
    while not try_to_take():
        if time.monotonic() >= deadline:
            raise asyncio.TimeoutError("others are still publishing")
        await asyncio.sleep(0.1)


async def open_channel(connection):
    """With confirms, and what no queue takes is an error."""
    return await connection.channel(publisher_confirms=True, on_return_raises=True)


async def publish_file(channel, path):
    """Whether the broker has confirmed it. What can never be published is set aside."""
    try:
        message = message_of(path.read_bytes())
    except FileNotFoundError:
        return False  # Another process was faster.
    except OSError as error:
        logger.error("%s cannot be read and is left: %s", path, describe(error))
        return False
    except NO_EVENT as error:
        set_aside(path, error)
        return False
    try:
        await publish_one(channel, message)
    except ChannelPreconditionFailed as error:
        # It is too large for the broker, which closed the channel.
        set_aside(path, error)
        return False
    return True


def set_aside(path, error):
    logger.error("%s can never be published and is renamed to *.bad: %s", path, describe(error))
    try:
        if bad(path).exists():
            raise FileExistsError(f"there is a {bad(path).name}")
        path.rename(bad(path))
    except OSError as trouble:
        logger.error("%s cannot be renamed and is left: %s", path, describe(trouble))


def bad(path):
    return path.with_suffix(".bad")


def message_of(body):
    """Raises one of NO_EVENT; what it says has nothing of the content."""
    event = json.loads(body)
    for field in ("event_id", "type"):
        # AMQP has no room for more.
        if not isinstance(event[field], str) or not 1 <= len(event[field].encode()) <= 255:
            raise ValueError(f"{field} is no text of 1 to 255 bytes")
    return aio_pika.Message(
        body, content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=event["event_id"], type=event["type"],
    )


async def publish_one(channel, message):
    exchange = await channel.get_exchange(EXCHANGE, ensure=False)
    await exchange.publish(message, message.type, mandatory=True, timeout=ANSWER_SECONDS)


def describe(error):
    if isinstance(error, UnicodeError):
        # Its own words may have some of the content.
        return type(error).__name__
    return f"{type(error).__name__}: {error}".rstrip(": ")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(0 if asyncio.run(Publisher(*sys.argv[1:3]).flush()) else 1)
