"""Every architecture through the command line, at three sizes on the embedded data."""

import contextlib
import io

import pytest

import zoo
from training import fit

pytestmark = pytest.mark.slow

SIZES = {"dcgan": (16, 32, 64), "sngan": (32, 48, 64), "gan": (16, 28, 48), "fastgan": (32, 64, 128), "vae": (32, 64, 96), "ae": (32, 64, 96)}  # fmt: skip


def run(*words):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = fit.main([str(word) for word in words])
    assert status == 0, errors.getvalue()
    return output.getvalue()


@pytest.mark.parametrize(("name", "side"), [(name, side) for name in zoo.names() for side in SIZES.get(name, ())])
def test_every_architecture_trains_twenty_steps_at_three_sizes_on_emoji(tmp_path, name, side):
    where = ["--run-dir", tmp_path / "run", "--export-dir", tmp_path / "exports", "--name", "it"]
    output = run(
        "--arch", name, "--steps", 20, "--size", side, "--batch-size", 4, "--set", "base_filters=8", "--no-jit", *where
    )
    assert "exported step 20" in output and (tmp_path / "exports" / "it" / "1" / "saved_model.pb").is_file()
    assert zoo.load(tmp_path / "run").sample(2).shape == (2, side, side, 3)


def test_every_architecture_has_three_sizes_to_try():
    assert set(SIZES) == set(zoo.names()) and all(len(set(sides)) == 3 for sides in SIZES.values())
