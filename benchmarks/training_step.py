"""`python -m benchmarks.training_step`: a training step of the zoo beside one of its twin in PyTorch, in the same run."""

import sys
from dataclasses import dataclass, field
from typing import Any

from benchmarks.command import Benchmark, ratio_text, run, seconds_text
from benchmarks.figures import ratio, summary
from benchmarks.interleave import Side, interleaved

OURS = {"XLA": True, "graph": False}
THEIRS = ("eager", "channels_last", "compile")
QUICK_WIDTH = 4


@dataclass(frozen=True)
class Row:
    """A model at a size. `turns` of `steps` steps each."""

    arch: str
    side: int
    batch_size: int
    twin: str
    turns: int
    steps: int
    arguments: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "dcgan-64": Row("dcgan", 64, 64, "dcgan", 6, 3),
    "sngan-cnn-32": Row("sngan", 32, 64, "sngan-cnn", 6, 3),
    "sngan-resnet-32": Row("sngan", 32, 64, "sngan-resnet", 4, 1, {"variant": "resnet"}),
    "vae-64": Row("vae", 64, 64, "vae", 8, 10),
    "fastgan-64": Row("fastgan", 64, 8, "fastgan", 4, 1),
    "fastgan-256": Row("fastgan", 256, 8, "fastgan", 3, 1),
}


def measure(name, options):
    """Returns the figures of a row; raises RuntimeError where the two sides are not the same network."""
    row = ROWS[name]
    width = {"base_filters": QUICK_WIDTH} if options.quick else {}
    batch_size = 2 if options.quick else row.batch_size
    size = {"side": row.side, "batch_size": batch_size, **width}
    sides = [
        Side(variant, "benchmarks.ours:train", {"arch": row.arch, "jit_compile": jit, **size, **row.arguments})
        for variant, jit in OURS.items()
    ]
    if options.torch_python is not None:
        sides += [
            Side(
                variant, "benchmarks.twins.cases:train",
                {"twin": row.twin, "variant": variant, "threads": options.threads, "count_flops": variant == "eager", **size},
                options.torch_python, optional=variant == "compile",
            )
            for variant in (THEIRS[:-1] if options.quick else THEIRS)  # compiling takes minutes
        ]  # fmt: skip
        product = {"threads": options.threads, "size": 64 if options.quick else 2048}
        sides.append(Side("product", "benchmarks.twins.cases:matrix_product", product, options.torch_python, steps=10))
    turns = options.turns or (2 if options.quick else row.turns)
    results = interleaved(
        sides, turns=turns, steps=1 if options.quick else row.steps, threads=options.threads, report=options.report
    )
    return figures(results) | {"batch_size": batch_size}


def figures(results):
    """Returns the figures of what `interleaved` measured."""
    product = results.pop("product", None)
    counts = {name: each["facts"]["parameters"] for name, each in results.items() if "failed" not in each}
    if len({tuple(each.values()) for each in counts.values()}) > 1:
        raise RuntimeError(f"The two sides are not the same network. Parameters: {counts}")
    row = {"parameters": counts["XLA"], "sides": {}}
    for name, each in results.items():
        if "failed" in each:
            row["sides"][name] = each
            continue
        row["sides"][name] = {
            "seconds": summary(sum(each["turns"], [])),
            "cpu_seconds": summary(sum(each["cpu_turns"], [])),
            "turns": each["turns"],
            "build_seconds": each["build_seconds"],
            "first_step_seconds": each["first_step_seconds"],
            "peak_bytes": each["peak_bytes"],
        }
    best = {"ours": fastest(row["sides"], OURS)}
    if product is not None:
        best["pytorch"] = fastest(row["sides"], THEIRS)
        seconds = summary(sum(product["turns"], []))["median"]
        row["flops"] = results["eager"]["facts"]["flops"]
        row["product_flops_per_second"] = product["facts"]["flops"] / seconds
        row["share_of_product"] = {
            side: row["flops"] / row["sides"][name]["seconds"]["median"] / row["product_flops_per_second"]
            for side, name in best.items()
        }
        row["ratio"] = ratio(*(row["sides"][best[side]]["turns"] for side in ("ours", "pytorch")))
    return row | {"best": best}


def fastest(sides, names):
    """Returns the one of `names` with the smallest median."""
    ran = [name for name in names if "seconds" in sides.get(name, {})]
    return min(ran, key=lambda name: sides[name]["seconds"]["median"])


def cells(name, figures):
    """Returns the line of a row: seconds a step of each side, the ratio of the best ones, shares of the product's rate."""
    texts = []
    for side in (*OURS, *THEIRS):
        found = figures["sides"].get(side)
        text = "-" if found is None else "failed" if "failed" in found else seconds_text(found["seconds"]["median"])
        texts.append(f"**{text}**" if side in figures["best"].values() else text)
    if "ratio" not in figures:
        return [[name, str(figures["batch_size"]), *texts, "-", "-", "-"]]
    shares = (f"{100 * figures['share_of_product'][side]:.0f}%" for side in ("ours", "pytorch"))
    flops = f"{figures['flops'] / 1e9:.3g}"
    return [[name, str(figures["batch_size"]), *texts, ratio_text(figures["ratio"]), flops, ", ".join(shares)]]


BENCHMARK = Benchmark(
    name="training_step",
    title="A training step beside the same network and step in PyTorch.",
    rows=tuple(ROWS),
    measure=measure,
    columns=(
        "model", "batch", "ours, XLA", "ours, no XLA", "PyTorch eager", "channels last", "torch.compile",
        "times the best PyTorch", "GFLOP a step", "share of the product's rate: ours, PyTorch",
    ),
    cells=cells,
)  # fmt: skip


def main(argv=None):
    """Runs the command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    sys.exit(main())
