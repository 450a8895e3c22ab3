"""The clients of the serving benchmark see what a server does wrong: nothing it reports would mean much otherwise."""

import asyncio
import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.load import References, draw_alone, load
from benchmarks.serving import build_parser, resolve


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = np.random.default_rng(0).integers(1, 255, (32, 32, 3), np.uint8)


def changed(count, by):
    pixels = IMAGE.reshape(-1).copy()
    pixels[:count] += by
    return png(pixels.reshape(IMAGE.shape))


@pytest.mark.parametrize(
    "body, verdict",
    [
        (png(IMAGE), "same"),
        (changed(3, 1), "different"),  # of 3,072 values, 0.1% are 3
        (changed(4, 1), "wrong"),
        (changed(1, 2), "wrong"),
        (png(IMAGE[:16]), "wrong"),
    ],
)
def test_an_image_is_compared_with_the_one_drawn_alone(body, verdict):
    references = References({7: png(IMAGE)})
    assert references.compare(7, body) == verdict == references.compare(7, body)


async def served(handle, use):
    """Runs `use(url)` beside a server that answers `handle(number of the request)`, bytes or `None` to close."""
    asked = 0

    async def connected(reader, writer):
        nonlocal asked
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                asked += 1
                answer = handle(asked)
                if answer is None:
                    break
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        return await use(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


def answer(status, body, *headers):
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_what_a_server_does_is_counted():
    bodies = {
        1: answer(200, png(IMAGE)),
        2: answer(503, b"", "Retry-After: 0"),
        3: answer(503, b"", "X: retry-after-is-missing", "Retry-Afte: 0"),
        4: None,
        5: answer(200, changed(1, 1)),
        6: answer(200, changed(9, 9), "Connection: close"),
    }

    async def use(url):
        return await load(url, "/{seed}", 1, 3, References({0: png(IMAGE)}))

    tally = asyncio.run(served(lambda number: bodies.get(number, answer(200, png(IMAGE))), use))
    assert tally.answers[503] == 2 and tally.without_retry == 1
    assert len(tally.dropped) == 1 and (tally.wrong, tally.different, tally.refused) == (1, 1, 0)
    assert tally.answers[200] > 3 and tally.in_time <= tally.answers[200] == len(tally.times)


def test_images_are_drawn_one_after_the_other_to_compare_with():
    async def use(url):
        return await draw_alone(url, "/{seed}", range(3))

    references = asyncio.run(served(lambda number: answer(200, png(IMAGE)), use))
    assert references.seeds == [0, 1, 2] and references.compare(2, png(IMAGE)) == "same"


@pytest.mark.parametrize("options, message", [(["--clients", "0"], "--clients must be at least 1"),
                                              (["--seconds", "nan"], "--seconds must be at least 6"),
                                              ([], "There is no exported model")])  # fmt: skip
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        resolve(build_parser().parse_args(["--model", "nowhere", *options]))
