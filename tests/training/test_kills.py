"""Fifty kills at random moments of a run's life, each followed by the same command: no number may differ in the end."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.export import versions
from zoo import checkpoint

REPOSITORY = Path(__file__).parents[2]
KILLS, STEPS, SEED = 50, 300, 7
OPTIONS = ["--arch", "dcgan", "--size", "8", "--set", "base_filters=4", "--batch-size", "4", "--no-jit", "--steps", str(STEPS),
           "--checkpoint-every", "1", "--log-every", "5", "--sample-every", "25", "--name", "tiny"]  # fmt: skip


class Run:
    """A run in a directory of its own, with a cache and exports of its own."""

    def __init__(self, root, images):
        self.root, self.run_dir, self.exports = root, root / "run", root / "exports"
        self.log = root / "log.txt"
        root.mkdir()
        places = ["--data", str(images), "--run-dir", str(self.run_dir), "--export-dir", str(self.exports)]
        self.command = [sys.executable, "-m", "training.fit", *OPTIONS, *places]

    def start(self):
        environment = os.environ | {"ZOO_CACHE": str(self.root / "cache"), "PYTHONUNBUFFERED": "1"}
        with open(self.log, "wb") as log:  # a file an attempt
            return subprocess.Popen(self.command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def half_written(self):
        """Returns {what is being written: names of its temporary files}."""
        return {
            "a checkpoint": {path.name for path in self.run_dir.glob("checkpoints/.step_*.tmp")},
            "another file of the run": {path.name for path in self.run_dir.rglob(".*.tmp")},
            "an export": {path.name for path in self.exports.glob("*/.writing-*")},
            "the cache": {path.name for path in self.root.glob("cache/*.tmp-*")},
        }

    def phase(self, before):
        """Returns what a process that was just killed was doing; `before` is `half_written()` at its start."""
        for what, names in self.half_written().items():
            if names - before[what]:
                return f"writing {what}"
        log = self.log.read_text(errors="replace")
        for line, what in {"steps in": "after the last step", "the first step is done": "training", "steps, batch size":
                           "making the model, or the first step", "": "starting"}.items():  # fmt: skip
            if line in log:
                return what

    def newest(self):
        return (checkpoint.paths(self.run_dir / "checkpoints") or [None])[-1]

    def wait(self, process, seconds, from_training_on):
        """Returns the exit status, or `None` if the process goes on after so many seconds (of training)."""
        before, looked = self.newest(), time.monotonic()
        while from_training_on and self.newest() == before and process.poll() is None:
            assert time.monotonic() < looked + 600, self.log.read_text()
            time.sleep(0.02)
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def logged_steps(self):
        with open(self.run_dir / "metrics.csv", newline="", encoding="utf-8") as file:
            return [int(row["step"]) for row in csv.DictReader(file)]


def assert_same_end(run, straight):
    arrays, expected = checkpoint.read(run.newest()), checkpoint.read(straight.newest())
    assert run.newest().name == straight.newest().name == f"step_{STEPS:08d}.npz"
    assert arrays.keys() == expected.keys() and len(arrays) > 40
    assert [key for key in arrays if arrays[key].tobytes() != expected[key].tobytes()] == []
    assert run.logged_steps() == straight.logged_steps() == list(range(5, STEPS + 1, 5))
    assert versions(run.exports / "tiny") == [1], "a killed run exported twice, or not at all"
    assert not list(run.run_dir.rglob(".*.tmp")) and not (run.run_dir / ".lock").exists()


@pytest.mark.slow
def test_fifty_random_kills_change_no_bit(tmp_path):
    images, generator, draw = tmp_path / "images", np.random.default_rng(0), random.Random(SEED)
    images.mkdir()
    for index in range(200):
        Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8)).save(images / f"{index:03d}.png")
    straight = Run(tmp_path / "straight", images)
    started = time.monotonic()
    process = straight.start()
    assert straight.wait(process, 0, from_training_on=True) is None, straight.log.read_text()
    trained = time.monotonic()
    assert process.wait(timeout=600) == 0, straight.log.read_text()
    life, training = time.monotonic() - started, time.monotonic() - trained

    phases, runs, kills = Counter(), 0, 0
    while kills < KILLS:
        run, status = Run(tmp_path / f"run_{runs}", images), None
        while status is None:
            before = run.half_written()
            process = run.start()
            if kills < KILLS:  # every other one at any moment from the start on: much of a short life is the start
                late = kills % 2 == 1
                status = run.wait(process, draw.uniform(0, training if late else life), from_training_on=late)
            else:
                status = process.wait(timeout=600)
            if status is None:
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
                phases[run.phase(before)] += 1
                kills += 1
                print(f"{kills} kills, {runs} runs ended: {dict(phases.most_common())}", flush=True)
        assert status == 0, run.log.read_text()
        assert_same_end(run, straight)
        runs += 1
    assert kills == KILLS
