"""The PyTorch twins have the parameters of the zoo's networks: else their times would compare nothing."""

import json
import os
import subprocess
import sys

import pytest

import zoo
from benchmarks.command import has_torch
from benchmarks.interleave import ROOT

# twin, side, width, the zoo's architecture and arguments
NARROW = [
    ("dcgan", 64, 4, "dcgan", {}),
    ("dcgan-keras", 32, 4, "dcgan", {"variant": "keras32"}),
    ("sngan-cnn", 32, 4, "sngan", {}),
    ("sngan-resnet", 32, 4, "sngan", {"variant": "resnet"}),
    ("vae", 64, 4, "vae", {}),
    ("fastgan", 64, 4, "fastgan", {}),
    ("fastgan", 256, 4, "fastgan", {}),
]
# At full width: the papers' tables (tests/zoo/test_parameter_counts.py).
FULL = {
    ("dcgan", 64): (3_576_704, 2_765_568),
    ("sngan-cnn", 32): (3_812_355, 2_935_873),
    ("sngan-resnet", 32): (4_276_739, 1_053_824),
    ("fastgan", 256): (29_127_846, 11_526_160),
}


@pytest.fixture(scope="module")
def counts():
    """Returns `{(twin, side, width): parameters of its two networks}`, counted by an interpreter that has PyTorch."""
    python = os.environ.get("TORCH_PYTHON", sys.executable)
    if not has_torch(python):
        pytest.skip("needs PyTorch: name an interpreter that has it, TORCH_PYTHON=PATH")
    wanted = [(twin, side, width) for twin, side, width, *_ in NARROW] + [(*key, None) for key in FULL]
    code = "import json, sys; from benchmarks.twins.training import parameters; print(json.dumps([list(parameters(*each).values()) for each in json.loads(sys.argv[1])]))"
    done = subprocess.run([python, "-c", code, json.dumps(wanted)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(wanted, map(tuple, json.loads(done.stdout)), strict=True))


@pytest.mark.parametrize(
    "twin, side, width, arch, arguments",
    [pytest.param(*each, marks=[pytest.mark.slow] if each[0] == "fastgan" else []) for each in NARROW],
)
def test_a_twin_has_the_parameters_of_the_zoos_network(counts, twin, side, width, arch, arguments):
    from zoo.generative import count_parameters

    model = zoo.create(arch, (side, side, 3), base_filters=width, **arguments)
    names = ("encoder", "decoder") if arch == "vae" else ("generator", "discriminator")
    assert counts[twin, side, width] == tuple(count_parameters(model.networks[name]) for name in names)


@pytest.mark.parametrize("key", FULL, ids=lambda key: f"{key[0]}-{key[1]}")
def test_a_twin_at_full_width_has_the_parameters_of_the_papers_table(counts, key):
    assert counts[(*key, None)] == FULL[key]
