"""`python -m benchmarks.loading`: a folder of JPEG files as batches, beside tf.data and PyTorch's DataLoader."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.command import Benchmark, ratio_text, run, seconds_text
from benchmarks.figures import ratio, summary
from benchmarks.interleave import Side, interleaved

ROWS = {f"{kind}-{side}": (kind, side) for kind in ("cold", "warm") for side in (32, 256)}
BATCH_SIZE, WORKERS = 64, 2
OURS = "ours"


def measure(name, options):
    """Returns the figures of a row."""
    kind, side = ROWS[name]
    with tempfile.TemporaryDirectory(prefix="benchmark-images-") as drawn:
        folder = Path(options.data or drawn).absolute()
        if options.data is None:
            draw(folder, count=8 if options.quick else 2_000)
        if not any(folder.glob("*.jpg")):
            raise ValueError(f"{folder} holds no .jpg files.")
        sides = sides_of(kind, str(folder), side, options)
        turns = options.turns or (2 if options.quick else 5)
        results = interleaved(sides, turns=turns, steps=1, threads=options.threads, report=options.report)
    row = {"sides": {}, "ratios": {}}
    for peer, each in results.items():
        row["sides"][peer] = {
            "seconds": summary(sum(each["turns"], [])),
            "turns": each["turns"],
            "images": each["value"]["images"],
        }
        if peer != OURS:
            row["ratios"][peer] = ratio(results[OURS]["turns"], each["turns"])
    return row


def draw(folder, count):
    """Writes JPEG files of 500 x 375 pixels that look, to a decoder, like photographs: smooth, with some noise."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + generator.integers(-12, 13, smooth.shape, np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05}.jpg", quality=90)


def sides_of(kind, folder, side, options):
    """Returns the sides: all read, decode and resize each epoch but those with a cache."""
    size = {"folder": folder, "side": side, "batch_size": 4 if options.quick else BATCH_SIZE}
    names = {OURS: kind, "tf.data": "tf.data"} | ({"tf.data, cached": "tf.data cached"} if kind == "warm" else {})
    sides = [Side(name, "benchmarks.ours:load_images", {**size, "method": method}) for name, method in names.items()]
    if options.torch_python is not None:
        arguments = {**size, "workers": WORKERS}
        sides.append(
            Side(
                f"DataLoader, {WORKERS} workers", "benchmarks.twins.cases:load_images", arguments, options.torch_python
            )
        )
    return sides


def cells(name, figures):
    """Returns a line for each side."""
    return [
        [
            name,
            side,
            seconds_text(each["seconds"]["median"]),
            f"{each['images'] / each['seconds']['median']:,.0f}",
            ratio_text(figures["ratios"][side]) if side in figures["ratios"] else "1",
        ]
        for side, each in figures["sides"].items()
    ]


BENCHMARK = Benchmark(
    name="loading",
    title="An epoch of a folder of JPEG files: cold with the first decoding, warm from the cache.",
    rows=tuple(ROWS),
    measure=measure,
    columns=("row", "side", "an epoch", "images/s", "ours is faster by"),
    cells=cells,
    folders={"data": "JPEG files of your own, in place of drawn ones"},
)


def main(argv=None):
    """Runs the command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    sys.exit(main())
