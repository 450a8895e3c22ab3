"""`python -m benchmarks.evaluating`: the judge's parts beside what else computes them."""

import sys

from benchmarks.command import Benchmark, ratio_text, run, seconds_text
from benchmarks.figures import ratio, summary
from benchmarks.interleave import Side, interleaved

FRECHET_DIMENSION, NEIGHBOUR_DIMENSION = 2048, 1280
METRICS = ("nearest", "adversarial-accuracy", "precision-recall")
# Turns; of the long rows few, and of the longest one, without a step to warm up. Of 50,000 the metrics alone.
ROWS = {
    **{f"frechet-{count}": turns for count, turns in ((331, 5), (2_000, 3), (10_000, 3))},
    "features": 5,
    **{f"{metric}-2000": 5 for metric in METRICS},
    **{f"{metric}-10000": 3 for metric in METRICS},
    **{f"{metric}-50000": 1 for metric in METRICS[1:]},
}
OURS = "ours"


def measure(name, options):
    """Returns the figures of a row."""
    sides = sides_of(name, options)
    turns = options.turns or (2 if options.quick else ROWS[name])
    results = interleaved(
        sides, turns=turns, steps=1, threads=options.threads, warm_up=turns > 1, report=options.report
    )
    row = {"sides": {}, "ratios": {}}
    for side, each in results.items():
        if "failed" in each:
            row["sides"][side] = each
            continue
        row["sides"][side] = {
            "seconds": summary(sum(each["turns"], [])),
            "turns": each["turns"],
            "value": each["value"],
            "facts": each["facts"],
            "extra_bytes": each["peak_bytes"] - each["resident_bytes"],
        }
        if side != OURS:
            row["ratios"][side] = ratio(results[OURS]["turns"], each["turns"])
    return row


def sides_of(name, options):
    """Returns the sides of a row."""
    kind, _, count = name.rpartition("-")
    if name == "features":
        return _feature_sides(options)
    if kind == "frechet":
        size = (
            {"count": 40, "dimension": 16} if options.quick else {"count": int(count), "dimension": FRECHET_DIMENSION}
        )
        return [
            Side(side, "benchmarks.ours:frechet", {**size, "method": method})
            for side, method in (
                (OURS, "ours"),
                ("scipy sqrtm", "sqrtm"),
                ("eigenvalues of torch-fidelity", "eigenvalues"),
            )
        ]
    size = {"count": 40, "dimension": 16} if options.quick else {"count": int(count), "dimension": NEIGHBOUR_DIMENSION}
    size["metric"] = kind
    sides = [
        Side(OURS, "benchmarks.ours:neighbours", {**size, "method": "ours"}),
        Side("scikit-learn", "benchmarks.ours:neighbours", {**size, "method": "scikit-learn"}),
    ]
    if options.torch_python is not None:
        sides += [
            Side(
                f"PyTorch {dtype}", "benchmarks.twins.cases:neighbours",
                {**size, "threads": options.threads, "dtype": dtype}, options.torch_python,
            )
            for dtype in (("float32",) if count == "50000" else ("float32", "float64"))  # float64 takes twice as long
        ]  # fmt: skip
    return sides


def _feature_sides(options):
    size = {"count": 8 if options.quick else 512, "side": 64, "batch_size": 4 if options.quick else 64}
    sides = [Side(OURS, "benchmarks.ours:extract", size)]
    if options.torch_python is not None:
        sides += [
            Side(
                f"PyTorch {variant}", "benchmarks.twins.cases:extract",
                {**size, "threads": options.threads, "variant": variant}, options.torch_python,
                optional=variant == "compile",
            )
            for variant in ("eager", "channels_last", "compile")
        ]  # fmt: skip
    return sides


def cells(name, figures):
    """Returns a line for each side: time, extra memory, value, and how many times faster ours is."""
    lines = []
    for side, each in figures["sides"].items():
        if "failed" in each:
            lines.append([name, side, "failed", "-", "-", "-"])
            continue
        seconds = each["seconds"]["median"]
        images = each["facts"].get("images")
        speed = f" ({images / seconds:.3g} images/s)" if images else ""
        value = each["value"] if isinstance(each["value"], dict) else {"": each["value"]}
        values = ", ".join(f"{number:.5g}" for number in value.values() if number is not None) or "-"
        times = ratio_text(figures["ratios"][side]) if side in figures["ratios"] else "1"
        memory = f"{each['extra_bytes'] / 2**20:.0f} MB"
        lines.append([name, side, seconds_text(seconds) + speed, memory, values, times])
    return lines


BENCHMARK = Benchmark(
    name="evaluating",
    title="The parts of an evaluation beside other programs' ways to the same numbers.",
    rows=tuple(ROWS),
    measure=measure,
    columns=("row", "side", "time", "extra memory", "value", "ours is faster by"),
    cells=cells,
)


def main(argv=None):
    """Runs the command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    sys.exit(main())
