"""`python -m benchmarks.quality --data FOLDER`: what the images are worth after equal work, and after equal time.

Rows `steps-ARCH`: the zoo and its twin in PyTorch take as many steps on the same images in the same order, three seeds a
side: a speed that is bought with quality shows here. Rows `cars-ARCH-WIDTH` and `paintings-ARCH-WIDTH`, some with a change of
the recipe after it: one run of the zoo, judged after 5, 10 and 20 minutes of a processor (what else the machine does hardly
matters).
The judge is the kernel Inception distance on features of EfficientNet-Lite0 between samples and all images.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.command import HERE, Benchmark, run
from benchmarks.interleave import Side, Worker

STEPS, SEEDS, BATCH, COUNT = 500, (0, 1, 2), 64, 2_000
FASTGAN_BATCH = 16  # its paper's is 8
MARKS = (5, 10, 20)
_EQUAL = {
    "steps-dcgan": ("dcgan", "dcgan-keras", {"variant": "keras32"}, 0.99),
    "steps-sngan": ("sngan", "sngan-cnn", {"variant": "cnn"}, 0.9),
}
_WIDTH = 16
_CHANGES = {"translation": {"augment": "translation"}, "batch-8": {"batch_size": 8}}
# name: minutes
_TIMED = {
    **dict.fromkeys(("cars-dcgan-16", "cars-sngan-16", "cars-fastgan-16", "cars-vae-32"), MARKS),
    **dict.fromkeys(("cars-sngan-16-translation", "cars-fastgan-16-batch-8", "cars-fastgan-32"), MARKS[:2]),
    **dict.fromkeys(("paintings-sngan-16-translation", "paintings-fastgan-16"), MARKS),
}
_QUICK = {"steps": 2, "seeds": (0,), "count": 20, "marks": (0.02, 0.04), "width": 4}


def measure(name, options):
    """Returns the figures of a row."""
    folder = getattr(options, folder_of(name))
    if folder is None:
        raise ValueError(f"The row {name} needs --{folder_of(name)} FOLDER: {BENCHMARK.folders[folder_of(name)]}.")
    side = 64 if folder_of(name) == "paintings" else 32
    with tempfile.TemporaryDirectory(prefix="benchmark-quality-") as scratch:
        images = Path(scratch) / "images.npy"
        reals = _load(folder, side)
        np.save(images, reals)
        features, count = _features(reals), _QUICK["count"] if options.quick else COUNT
        about = {"images": len(reals), "side": side, "floor": _floor(features, count)}
        if name in _EQUAL:
            return about | _after_equal_work(name, options, images, features, count, Path(scratch))
        return about | _after_equal_time(name, options, images, features, count)


def folder_of(name):
    """Returns the option that names the images of a row."""
    return "paintings" if name.startswith("paintings") else "data"


def _load(folder, side):
    from training import data

    return np.asarray(data.load(folder, size=side, progress=False).images)


def _after_equal_work(name, options, images, features, count, scratch):
    arch, twin, hyperparameters, norm_momentum = _EQUAL[name]
    quick = options.quick
    steps = _QUICK["steps"] if quick else STEPS
    common = {"images": str(images), "steps": steps, "batch_size": 4 if quick else BATCH, "count": count,
              "base_filters": _QUICK["width"] if quick else _WIDTH}  # fmt: skip
    sides = {"ours": ("benchmarks.quality_cases:by_steps", {"arch": arch, **hyperparameters}, None)}
    if options.torch_python is not None:
        theirs = {"twin": twin, "threads": options.threads, "norm_momentum": norm_momentum}
        sides["PyTorch"] = ("benchmarks.twins.quality:by_steps", theirs, options.torch_python)
    found, parameters = {}, {}
    for seed in _QUICK["seeds"] if quick else SEEDS:
        for side, (case, arguments, python) in sides.items():
            samples = scratch / f"{side}-{seed}.npy"
            facts, seconds = _run(
                Side(side, case, {**common, **arguments, "seed": seed, "samples": str(samples)}, python),
                options.threads,
            )
            parameters[side] = facts["parameters"]
            found.setdefault(side, []).append(_judged(samples, features) | {"seconds": seconds, "seed": seed})
            options.report(f"  {side}, seed {seed}: {_text(found[side][-1])}, {seconds:.0f} s")
    if len({tuple(each.values()) for each in parameters.values()}) > 1:
        raise RuntimeError(f"The two sides are not the same network. Parameters: {parameters}")
    return {"steps": steps, "sides": found, "parameters": parameters["ours"]}


def _after_equal_time(name, options, images, features, count):
    _, arch, width, *change = name.split("-")
    marks = _QUICK["marks"] if options.quick else _TIMED[name]
    folder = HERE / "runs" / f"{name}{'-quick' if options.quick else ''}"
    arguments = {"images": str(images), "arch": arch, "marks": marks, "batch_size": BATCH, "seed": 0, "folder": str(folder),
                 "count": count, "base_filters": _QUICK["width"] if options.quick else int(width)}  # fmt: skip
    if arch == "fastgan":
        arguments |= {"reconstruction": "multiscale_l1", "batch_size": FASTGAN_BATCH}
    arguments |= _CHANGES.get("-".join(change), {})
    if options.quick:
        arguments["batch_size"] = 4
    facts, _ = _run(Side(name, "benchmarks.quality_cases:by_minutes", arguments), options.threads)
    steps = facts["value"]["steps"]
    points = []
    for mark in marks:
        points.append(_judged(folder / f"samples_{mark}.npy", features) | {"minutes": mark, "steps": steps[str(mark)]})
        options.report(f"  {mark} min, {points[-1]['steps']:,} steps: {_text(points[-1])}")
    # Or --overwrite would judge this run once more; the samples are kept to be looked at.
    shutil.rmtree(folder / "checkpoints")
    (folder / "state.json").unlink()
    return {"points": points, "parameters": facts["parameters"], "arch": arch}


def _run(side, threads):
    """Has a process build its case and take its one step; returns `(facts and value, seconds)`."""
    worker = Worker(side, threads)
    try:
        facts = worker.wait_until_built()["facts"]
        answer = worker.run(1)
    finally:
        worker.close()
    return facts | {"value": answer["value"]}, answer["seconds"][0]


def _features(images):
    from evaluation.features import extract_features
    from training.fit import import_tensorflow

    import_tensorflow()
    return extract_features(images, progress=False).features


def _judged(samples, features):
    from evaluation.kid import kid

    result = kid(features, _features(np.load(samples)))
    return {"kid": float(result), "interval": list(result.interval)}


def _floor(features, count):
    from evaluation.kid import real_vs_real_floor

    return float(real_vs_real_floor(features, min(count, len(features) // 2)))


def _text(point):
    low, high = point["interval"]
    return f"KID {point['kid']:.3f} ({low:.3f} to {high:.3f})"


def cells(name, figures):
    """Returns the lines of a row: one a side, or one a mark."""
    if "points" in figures:
        return [
            [name, f"{point['minutes']} min", f"{point['steps']:,}", _text(point)[4:], f"{figures['floor']:.5f}"]
            for point in figures["points"]
        ]
    lines = []
    for side, found in figures["sides"].items():
        texts = "; ".join(_text(each)[4:] for each in found)
        mean = np.mean([each["kid"] for each in found])
        lines.append([name, side, f"{figures['steps']:,}", f"mean {mean:.3f}: {texts}", f"{figures['floor']:.5f}"])
    return lines


def draw(rows, folder):
    """Writes the chart of the timed rows, and, where their samples still lie in `runs/`, a picture of those."""
    from benchmarks import quality_pictures as pictures
    from training.pictures import save_atomically

    timed = {name: rows[name] for name in _TIMED if name in rows}
    if not timed:
        return
    png = pictures.chart(timed)
    save_atomically(folder / "quality-time.png", lambda file: file.write(png))
    for images in ("cars", "paintings"):
        folders = [HERE / "runs" / name for name in timed if name.startswith(images)]
        if folders and all(each.is_dir() for each in folders):
            strip = pictures.samples(folders, MARKS)
            save_atomically(folder / f"quality-{images}.png", lambda file, strip=strip: strip.save(file, "PNG"))


BENCHMARK = Benchmark(
    name="quality",
    title="The kernel Inception distance after equal work beside PyTorch, and after equal time of a processor.",
    rows=(*_EQUAL, *_TIMED),
    measure=measure,
    columns=("row", "side, or time", "steps", "KID (95% interval)", "real against real"),
    cells=cells,
    threads=1,  # minutes of a processor are the same work on any machine; more threads waste some of them
    draw=draw,
    folders={"data": "32 px rows: images, such as 5,000 cars", "paintings": "64 px rows: images, such as paintings"},
)


def main(argv=None):
    """Runs the command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    sys.exit(main())
