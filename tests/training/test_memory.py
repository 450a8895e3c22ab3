"""Less memory, for real: training in processes whose tensors have a limited allocator, as on a small accelerator."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import fit

ROOT = Path(__file__).parents[2]
MEGABYTES = 110  # a batch in one piece wants over 160, in eight parts under 70


def train(folder, name, *options):
    """Returns the exit status and the output of two steps of a DCGAN on batches of 128 images of 64 px."""
    limit = {"TF_CPU_ALLOCATOR_USE_BFC": "true", "TF_CPU_BFC_MEM_LIMIT_IN_MB": str(MEGABYTES)}
    done = subprocess.run(
        [
            sys.executable, "-m", "training.fit", "--arch", "dcgan", "--size", "64", "--set", "base_filters=32",
            "--data", folder / "images", "--steps", "2", "--batch-size", "128", "--no-jit", "--sample-every", "1000",
            "--run-dir", folder / name, "--export-dir", folder / "exports", "--name", name, *options,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
        env=os.environ | limit | {"ZOO_CACHE": str(folder / "cache")},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_batch_that_is_too_large_for_the_memory_trains_in_parts(tmp_path):
    (tmp_path / "images").mkdir()
    draw = np.random.default_rng(0)
    for number in range(16):
        Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    status, output = train(tmp_path, "whole")
    # Where it is a kernel of oneDNN that finds no memory, TensorFlow 2.21 ends with a segmentation fault.
    assert status != 0 and "2 steps in" not in output
    status, output = train(tmp_path, "parts", "--accumulate", "8")
    assert status == 0, output


@pytest.mark.parametrize(("options", "at_once", "accumulate"), [([], 64, 2), (["--accumulate", "4"], 16, 8)])
@pytest.mark.parametrize("kind", ["TensorFlow's", "Python's"])
def test_an_error_for_want_of_memory_says_what_to_try(monkeypatch, capsys, kind, options, at_once, accumulate):
    def run(settings, dry_run):
        if kind == "Python's":
            raise MemoryError("Unable to allocate 9 GiB")
        import tensorflow as tf

        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nand a page of details")

    monkeypatch.setattr(fit, "run", run)
    assert fit.main(["--batch-size", "64", *options]) == 1
    said = capsys.readouterr().err
    assert f"Memory ran out with {at_once} images at a time. Try --accumulate {accumulate} " in said
    assert "--gradient-checkpointing" in said and "--batch-size 32" in said
    assert ("OOM when allocating" in said) == (kind != "Python's") and "details" not in said
