"""`python -m benchmarks.growth`: how time grows with batch, resolution, parameters and number of images."""

import sys

from benchmarks.command import Benchmark, run, seconds_text
from benchmarks.figures import fitted_exponent, summary
from benchmarks.interleave import Side, interleaved

BEND = 0.3  # between neighbours an exponent so far from the fitted one is told
_STEP, _FRECHET, _NEIGHBOURS = "benchmarks.ours:train", "benchmarks.ours:frechet", "benchmarks.ours:neighbours"
_CNN = {"arch": "sngan", "variant": "cnn", "side": 32, "batch_size": 64, "base_filters": 32}
_NEAREST = {"dimension": 1280, "metric": "precision-recall", "method": "ours"}

# row: (what grows, its values, case, its arguments, argument that grows, steps a turn)
ROWS = {
    "batch": ("batch size", (8, 16, 32, 64, 128, 256), _STEP, _CNN, "batch_size", 3),
    "resolution": ("side", (16, 32, 64, 128), _STEP, {**_CNN, "batch_size": 16}, "side", 3),
    "parameters": ("parameters", (8, 16, 32, 64, 128), _STEP, {**_CNN, "batch_size": 32}, "base_filters", 3),
    "frechet": ("images", (250, 500, 1_000, 2_000, 4_000, 8_000), _FRECHET, {"dimension": 1280, "method": "ours"}, "count", 1),
    "precision-recall": ("images", (500, 1_000, 2_000, 4_000, 8_000), _NEIGHBOURS, _NEAREST, "count", 1),
}  # fmt: skip
QUICK = {"batch_size": (2, 4), "side": (16, 32), "base_filters": (2, 4), "count": (20, 40)}
_SMALL = {
    _STEP: {"batch_size": 2, "base_filters": 2, "jit_compile": False},
    _FRECHET: {"dimension": 8},
    _NEIGHBOURS: {"dimension": 8},
}


def measure(name, options):
    """Returns the figures of a row: seconds at each size, the fitted exponent, and those between neighbours."""
    what, values, case, arguments, grows, steps = ROWS[name]
    if options.quick:
        values, arguments, steps = QUICK[grows], arguments | _SMALL[case], 1
    sides = [Side(str(value), case, arguments | {grows: value}) for value in values]
    turns = options.turns or (2 if options.quick else 5)
    results = interleaved(sides, turns=turns, steps=steps, threads=options.threads, report=options.report)
    sizes = list(values)
    if what == "parameters":
        sizes = [sum(each["facts"]["parameters"].values()) for each in results.values()]
    seconds = [summary(sum(each["turns"], [])) for each in results.values()]
    medians = [each["median"] for each in seconds]
    return {"what": what, "sizes": sizes, "seconds": seconds, "arguments": arguments, **fitted_exponent(sizes, medians)}


def cells(name, figures):
    """Returns the line of a row."""
    points = (
        f"{size:,}: {seconds_text(each['median'])}"
        for size, each in zip(figures["sizes"], figures["seconds"], strict=True)
    )
    return [[name, figures["what"], "; ".join(points), f"{figures['exponent']:.2f}", bends(figures)]]


def bends(figures):
    """Returns where the exponent between neighbours is far from the fitted one."""
    sizes, fitted = figures["sizes"], figures["exponent"]
    found = [
        f"{before:,} to {after:,}: {local:.2f}"
        for before, after, local in zip(sizes, sizes[1:], figures["local"])
        if abs(local - fitted) > BEND
    ]
    return "; ".join(found) or "none"


BENCHMARK = Benchmark(
    name="growth",
    title="Time against size, with the exponent b of time = a * size^b.",
    rows=tuple(ROWS),
    measure=measure,
    columns=("row", "size", "median time", "exponent", "bends"),
    cells=cells,
    needs_torch=False,
)


def main(argv=None):
    """Runs the command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    sys.exit(main())
