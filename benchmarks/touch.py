"""`python -m benchmarks.touch`: what a user waits for: help, errors, the first step, the first image; and the size on disk."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import loading
from benchmarks.command import Benchmark, ratio_text, run, seconds_text
from benchmarks.figures import ratio, summary
from benchmarks.interleave import ROOT, environment

COMMANDS = {"fit": "training.fit", "report": "evaluation.report", "sample": "serving.sample", "app": "serving.app"}
# What the time is compared with: nothing at all, and what it would be if TensorFlow were imported first.
BARE, IMPORT = ("-c", "pass"), ("-c", "import tensorflow")
FIRST_STEP = "the first step is done"  # of training.fit, on standard error
OURS = "ours"
LIST_INSTALLED = """
import importlib.metadata, json, re, sys
found, waiting = {}, sys.argv[1:]
while waiting:
    name = re.match(r"[\\w.-]+", waiting.pop())[0].lower().replace("_", "-")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    if name not in found:
        files = (distribution.locate_file(file) for file in distribution.files or ())
        found[name] = sum(file.stat().st_size for file in files if file.is_file())
        waiting += [each for each in distribution.requires or () if "extra ==" not in each]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Command:
    """One side: a command line, and when it has done what is waited for.

    Args:
        words: The command.
        status: Exit status it must have.
        until: Text of a line on standard error; the end of the process if None.
        input: What it reads.
        cache: Folder of the caches.
    """

    words: tuple
    status: int = 0
    until: str | None = None
    input: str | None = None
    cache: str | None = None

    def seconds(self, threads):
        """Runs it and returns the time. Raises RuntimeError if it does not do what is waited for."""
        surroundings = environment(threads) | ({"ZOO_CACHE": self.cache} if self.cache else {})
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        start = time.perf_counter()
        with subprocess.Popen(self.words, cwd=ROOT, env=surroundings, text=True, **pipes) as process:
            if self.until is None:
                _, errors = process.communicate(self.input)
                seconds = time.perf_counter() - start
                if process.returncode == self.status:
                    return seconds
            else:
                process.stdin.close()
                errors = ""
                for line in process.stderr:
                    if self.until in line:
                        seconds = time.perf_counter() - start
                        process.kill()
                        return seconds
                    errors += line
        words = " ".join(map(str, self.words))
        raise RuntimeError(f"{words} ended with status {process.returncode}: {errors.strip()[-500:]}")


def measure(name, options):
    """Returns the figures of a row."""
    if name == "install-size":
        return install_sizes(options)
    with tempfile.TemporaryDirectory(prefix="benchmark-touch-") as folder:
        sides = _sides(name, Path(folder), options)
        turns = options.turns or (1 if options.quick else 5)
        results = {side: [] for side in sides}
        for turn in range(turns):
            for side, make in sides.items():
                results[side].append([make(turn).seconds(options.threads)])
            options.report(f"  turn {turn + 1} of {turns}")
    return {
        "sides": {side: {"seconds": summary(sum(each, [])), "turns": each} for side, each in results.items()},
        "ratios": {side: ratio(results[OURS], each) for side, each in results.items() if side != OURS},
    }


def _sides(name, folder, options):
    """Returns `{side: function of the turn to a Command}`."""
    kind, _, which = name.partition(":")
    python = sys.executable
    if kind in ("help", "error"):
        words = ("--help",) if kind == "help" else ("--no-such-option",)
        command = Command((python, "-m", COMMANDS[which], *words), status=0 if kind == "help" else 2)
        return {
            OURS: lambda turn: command,
            "python alone": lambda turn: Command((python, *BARE)),
            "import tensorflow": lambda turn: Command((python, *IMPORT)),
        }
    return _first_steps(which, folder, options) if kind == "first-step" else _first_images(folder, options)


def _first_steps(which, folder, options):
    """From the command to the first step; `cold` with nothing decoded before."""
    photos = folder / "photos"
    photos.mkdir()
    loading.draw(photos, 8 if options.quick else 500)
    width = 4 if options.quick else 64

    def fit(turn):
        words = (
            sys.executable, "-m", "training.fit", "--arch", "sngan", "--data", photos, "--steps", "100",
            "--batch-size", "4" if options.quick else "64", "--set", f"base_filters={width}", "--run-dir",
            folder / f"run-{turn}",
        )  # fmt: skip
        cache = folder / (f"cache-{turn}" if which == "cold" else "cache")
        return Command(words, until=FIRST_STEP, cache=str(cache))

    if which == "warm":
        fit(-1).seconds(options.threads)
    sides = {OURS: fit, "import tensorflow": lambda turn: Command((sys.executable, *IMPORT))}
    if options.torch_python is not None:
        arguments = {"twin": "sngan-cnn", "side": 32, "batch_size": 4 if options.quick else 64, "base_filters": width}
        sides |= {"PyTorch eager, no data": lambda turn: _torch_once(options, "train", arguments)}
    return sides


def _first_images(folder, options):
    """From a SavedModel on disk to one image on disk."""
    photos, exports = folder / "photos", folder / "exports"
    photos.mkdir()
    loading.draw(photos, 8)
    words = (
        sys.executable, "-m", "training.fit", "--arch", "sngan", "--data", photos, "--steps", "1", "--batch-size", "4",
        "--no-jit", "--set", f"base_filters={4 if options.quick else 64}", "--name", "model", "--run-dir", folder / "run",
        "--export-dir", exports,
    )  # fmt: skip
    Command(words, cache=str(folder / "cache")).seconds(options.threads)
    model = exports / "model"
    load = (
        "import pathlib, tensorflow as tf; m = tf.saved_model.load(sys.argv[1]); "
        "image = m.signatures['sample_png'](seed=tf.constant([7], tf.int64), truncation=tf.constant([1.0])); "
        "pathlib.Path(sys.argv[2]).write_bytes(image['image_bytes'][0].numpy())"
    )

    def sample(turn):
        words = ("-m", "serving.sample", "--model", model, "--count", "1", "--out", folder / f"out-{turn}")
        return Command((sys.executable, *words))

    sides = {
        OURS: sample,
        "tf.saved_model.load alone": lambda turn: Command(
            (sys.executable, "-c", "import sys; " + load, next(model.iterdir()), folder / "alone.png")
        ),
    }
    if options.torch_python is not None:
        arguments = {"folder": str(folder), "base_filters": 4 if options.quick else 64}
        sides |= {"PyTorch, state dict": lambda turn: _torch_once(options, "first_image", arguments)}
    return sides


def _torch_once(options, case, arguments):
    words = (options.torch_python, "-m", "benchmarks.worker", f"benchmarks.twins.cases:{case}")
    return Command((*words, json.dumps({**arguments, "threads": options.threads})), input='{"steps": 1}\n')


def install_sizes(options):
    """Returns the bytes of this project with all it requires, and of the peer's environment."""
    pythons = {OURS: (sys.executable, "keras-small-image-zoo")}
    if options.torch_python is not None:
        pythons["PyTorch, NumPy, Pillow"] = (options.torch_python, "torch", "numpy", "pillow")
    sides = {}
    for side, (python, *names) in pythons.items():
        command = [python, "-c", LIST_INSTALLED, *names]
        found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        if names[0] not in found:
            raise RuntimeError(
                f"{python} has no installed {names[0]}, whose size was to be measured: pip install -e . there."
            )
        largest = dict(sorted(found.items(), key=lambda item: -item[1])[:8])
        sides[side] = {"bytes": sum(found.values()), "packages": len(found), "largest": largest}
    return {"sides": sides, "ratios": {}}


def cells(name, figures):
    """Returns a line for each side."""
    lines = []
    for side, each in figures["sides"].items():
        if "bytes" in each:
            largest = ", ".join(f"{package} {size / 1e6:,.0f}" for package, size in list(each["largest"].items())[:3])
            lines.append(
                [name, side, f"{each['bytes'] / 1e6:,.0f} MB in {each['packages']} packages ({largest} MB)", "-"]
            )
            continue
        times = ratio_text(figures["ratios"][side]) if side in figures["ratios"] else "1"
        lines.append([name, side, seconds_text(each["seconds"]["median"]), times])
    return lines


BENCHMARK = Benchmark(
    name="touch",
    title="What a user waits for, and the size on disk.",
    rows=(
        *(f"help:{name}" for name in COMMANDS), *(f"error:{name}" for name in COMMANDS), "first-step:cold",
        "first-step:warm", "first-image", "install-size",
    ),
    measure=measure,
    columns=("row", "side", "time", "ours is faster by"),
    cells=cells,
)  # fmt: skip


def main(argv=None):
    """Runs the command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    sys.exit(main())
