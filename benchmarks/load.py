"""Clients that ask a server for images without pause, cheap enough not to be what is measured."""

import asyncio
import contextlib
import io
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

SECONDS = 60  # to an answer; then it hangs
MOST_DIFFERENT = 0.001  # share of the values that may differ by one level from the image drawn alone


@dataclass
class Tally:
    """What became of the requests of a load.

    Args:
        answers: Number of answers of each status.
        in_time: Images that were there before the time was over.
        times: Seconds of each answer with status 200.
        dropped: Requests that were sent and not answered, with the reason.
        refused: Connections that were not accepted.
        wrong: Answers that are not the image of the seed.
        different: Answers that differ within the tolerance.
        without_retry: Answers 503 without Retry-After.
    """

    answers: Counter = field(default_factory=Counter)
    times: list = field(default_factory=list)
    dropped: list = field(default_factory=list)
    in_time: int = 0
    refused: int = 0
    wrong: int = 0
    different: int = 0
    without_retry: int = 0

    def __iadd__(self, other):
        self.answers += other.answers
        self.times += other.times
        self.dropped += other.dropped
        for name in ("in_time", "refused", "wrong", "different", "without_retry"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


class Connection:
    """One connection of HTTP/1.1, opened again where the server closed it with an answer."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._streams = None

    async def get(self, path):
        """Returns `(status, headers, body)`.

        Raises:
            ConnectionRefusedError: If no connection was made.
            OSError, EOFError: If it was, and no answer came.
        """
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection(*self._address)
            except OSError as error:
                raise ConnectionRefusedError(str(error)) from error
        reader, writer = self._streams
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._address[0]}\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), SECONDS)
        except BaseException:
            await self.close()
            raise
        if headers.get("connection") == "close":
            await self.close()
        return int(first.split(" ")[1]), headers, body

    async def close(self):
        """Closes it."""
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class References:
    """The images of some seeds, each drawn alone, to compare others with."""

    def __init__(self, bodies):
        self._bodies = bodies
        self._known = {seed: {body: "same"} for seed, body in bodies.items()}

    @property
    def seeds(self):
        return list(self._bodies)

    def compare(self, seed, body):
        """Returns "same", "different" (within the tolerance) or "wrong"."""
        known = self._known[seed]
        if body not in known:
            known[body] = self._judge(pixels(self._bodies[seed]), pixels(body))
        return known[body]

    @staticmethod
    def _judge(expected, found):
        if expected.shape != found.shape:
            return "wrong"
        difference = np.abs(expected.astype(int) - found)
        if not difference.any():
            return "same"
        return "different" if difference.max() <= 1 and (difference > 0).mean() <= MOST_DIFFERENT else "wrong"


def pixels(body):
    """Returns the values of a PNG file."""
    return np.asarray(Image.open(io.BytesIO(body)))


async def draw_alone(url, path, seeds):
    """Returns `References`: one request at a time."""
    connection, bodies = Connection(url), {}
    for seed in seeds:
        status, _, bodies[seed] = await connection.get(path.format(seed=seed))
        assert status == 200, bodies[seed]
    await connection.close()
    return References(bodies)


async def load(url, path, clients, seconds, references=None):
    """Asks from so many clients at once, each one request after the other.

    Args:
        url: Of the server.
        path: With `{seed}` in it.
        clients: Number of clients.
        seconds: How long.
        references: `References` to compare every answer with; `None` compares nothing.

    Returns:
        A `Tally`.
    """
    tallies = [Tally() for _ in range(clients)]
    end = time.monotonic() + seconds
    seeds = references.seeds if references else range(256)
    await asyncio.gather(
        *(_client(url, path, seeds, end, number, references, tally) for number, tally in enumerate(tallies))
    )
    total = Tally()
    for tally in tallies:
        total += tally
    return total


async def _client(url, path, seeds, end, number, references, tally):
    connection, place = Connection(url), number * 7
    while time.monotonic() < end:
        seed = seeds[place % len(seeds)]
        place += 1
        start = time.monotonic()
        try:
            status, headers, body = await connection.get(path.format(seed=seed))
        except ConnectionRefusedError:
            tally.refused += 1
            return
        except (OSError, EOFError, TimeoutError) as error:
            tally.dropped.append(f"{type(error).__name__}: {error}")
            continue
        tally.answers[status] += 1
        if status == 200:
            now = time.monotonic()
            tally.times.append(now - start)
            tally.in_time += now <= end
            if references is not None:
                verdict = references.compare(seed, body)
                tally.wrong += verdict == "wrong"
                tally.different += verdict == "different"
        elif status == 503:
            tally.without_retry += "retry-after" not in headers
            await asyncio.sleep(float(headers.get("retry-after", 1)))
    await connection.close()
