"""--conditional, --per-class and --init-from, through the command line itself, and what they export."""

import contextlib
import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import zoo
from training import fit
from training.data import to_uint8
from zoo import checkpoint

TINY = ["--arch", "dcgan", "--size", "16", "--set", "base_filters=4", "--batch-size", "4", "--no-jit", "--steps", "2"]
COLORS = {"red": (250, 20, 20), "green": (20, 250, 20), "light blue": (20, 120, 250)}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images of each of three colours."""
    top = tmp_path_factory.mktemp("data") / "colors"
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (top / name).mkdir(parents=True)
        for index in range(6):
            noise = rng.integers(-20, 20, (16, 16, 3))
            Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(top / name / f"{index}.png")
    return top


def run(*words):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = fit.main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        finally:
            keras.config.set_dtype_policy("float32")
    return status, output.getvalue(), errors.getvalue()


def train(directory, data, *words):
    where = ["--data", data, "--run-dir", directory / "run", "--export-dir", directory / "exports", "--name", "mine"]
    return run(*TINY, *where, *words)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory, folder, cache):
    directory = tmp_path_factory.mktemp("conditional")
    status, output, errors = train(directory, folder, "--conditional")
    assert status == 0, errors
    return directory, output


def test_a_conditional_run_says_so_in_its_record_and_its_export(conditional):
    directory, output = conditional
    record = json.loads((directory / "run" / "config.json").read_text())
    assert record["conditional"] is True and record["hyperparameters"]["num_classes"] == 3
    card = json.loads((directory / "exports" / "mine" / "1" / "model.json").read_text())
    assert card["class_names"] == sorted(COLORS)
    for name in ("serving_default", "sample", "sample_png", "discriminate"):
        assert card["signatures"][name]["inputs"]["label"]["dtype"] == "int64"
    assert "label" not in card["signatures"]["latents"]["inputs"]
    assert "label=[0]" in output


def test_the_export_makes_what_the_run_makes_of_every_label_and_refuses_others(conditional):
    directory, _ = conditional
    model = zoo.load(directory / "run")
    loaded = tf.saved_model.load(str(directory / "exports" / "mine" / "1"))
    sample = loaded.signatures["sample"]
    labels, seeds = np.array([2, 0, 1, 2]), np.arange(10, 14)
    arguments = {"seed": tf.constant(seeds), "truncation": tf.ones(4), "label": tf.constant(labels)}
    expected = to_uint8(model.sample(4, seed=10, labels=labels))
    assert np.abs(sample(**arguments)["images"].numpy().astype(int) - expected).max() <= 1
    for wrong in (-1, 3):
        with pytest.raises(tf.errors.InvalidArgumentError, match="label must be from 0 to 2"):
            sample(**arguments | {"label": tf.constant([wrong] * 4, tf.int64)})
    images = tf.constant(expected)
    scores = [
        loaded.signatures["discriminate"](images=images, label=tf.fill([4], np.int64(k)))["logits"] for k in (0, 1)
    ]
    assert np.abs(scores[0] - scores[1]).max() > 0


def test_a_conditional_grid_has_a_row_for_each_class(conditional):
    directory, _ = conditional
    with Image.open(directory / "run" / "samples" / "step_00000002.png") as picture:
        assert picture.width * 3 == picture.height * 8  # 8 columns, 3 rows


def test_a_conditional_run_goes_on_and_an_unconditional_one_in_its_directory_is_refused(conditional, folder):
    directory, _ = conditional
    status, output, _ = train(directory, folder, "--conditional")
    assert status == 0 and "nothing was left to do" in output
    status, _, errors = train(directory, folder)
    assert status == 1 and "conditional: True there, False now" in errors


def test_labels_are_needed(tmp_path, folder):
    for option in ("--conditional", "--per-class"):
        status, _, errors = train(tmp_path, folder / "red", option)
        assert status == 1 and f"{option} needs images of two classes or more" in errors, errors
    status, _, errors = run("--arch", "vae", "--conditional")
    assert status == 2 and "vae takes no labels" in errors and "--per-class" in errors
    status, _, errors = run("--arch", "dcgan", "--set", "num_classes=3")
    assert status == 2 and "--conditional" in errors
    status, _, errors = run("--conditional", "--per-class")
    assert status == 2 and "exclude each other" in errors


def test_per_class_trains_and_exports_a_model_each_and_passes_over_what_is_done(tmp_path, folder):
    status, output, errors = train(tmp_path, folder, "--per-class")
    assert status == 0, errors
    assert sorted(path.name for path in (tmp_path / "exports").iterdir()) == [
        "mine-green",
        "mine-light-blue",
        "mine-red",
    ]
    card = json.loads((tmp_path / "exports" / "mine-light-blue" / "1" / "model.json").read_text())
    assert card["training"]["classes"] == ["light blue"] and card["training"]["num_images"] == 6
    status, again, _ = train(tmp_path, folder, "--per-class")
    assert status == 0 and again.count("nothing was left to do") == 3 and "exported step" not in again
    assert not (tmp_path / "exports" / "mine-red" / "2").exists()


# Starting from another run.


def start(directory, folder, source, *words):
    return train(directory, folder, "--init-from", source, *words)


def test_a_run_that_starts_from_another_of_its_kind_takes_all_of_it(tmp_path, conditional, folder):
    source = conditional[0] / "run"
    status, output, errors = start(tmp_path, folder, source, "--conditional")
    assert status == 0, errors
    taken, total = output.partition("starting from ")[2].split(": ")[1].split(" variables")[0].split(" of ")
    assert taken == total and "not taken" not in output
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["init_from"] == str(source)


def test_of_another_size_and_other_classes_it_takes_what_fits_and_lists_the_rest(tmp_path, conditional, folder):
    source = conditional[0] / "run"
    status, output, errors = start(tmp_path, folder, source, "--size", "32")
    assert status == 0, errors
    listed = [line for line in output.splitlines() if line.startswith("  not taken: ")]
    taken, total = (int(word) for word in output.partition(f"from {source}: ")[2].split(" variables")[0].split(" of "))
    assert 0 < taken < total and len(listed) == total - taken


def test_a_generator_starts_from_an_autoencoders_decoder_whole_or_not_at_all(tmp_path, folder):
    coder, gan = tmp_path / "coder", tmp_path / "gan"
    narrow = ["--size", "32", "--set", "base_filters=2", "--set", "latent_dim=8"]
    status, _, errors = train(coder, folder, "--arch", "ae", *narrow)
    assert status == 0, errors
    decoder = ["--size", "32", "--set", "variant=decoder", "--set", "latent_dim=8"]
    status, output, errors = start(
        gan, folder, coder / "run", *decoder, "--set", "base_filters=4", "--set", "g_learning_rate=1e-9"
    )
    assert status == 0, errors
    started, source = (checkpoint.read(checkpoint.paths(path / "run" / "checkpoints")[-1]) for path in (gan, coder))
    for key in (key for key in started if key.startswith("generator/") and "moving" not in key):
        np.testing.assert_allclose(started[key], source[key.replace("generator", "decoder")], atol=1e-6, err_msg=key)
    status, _, errors = start(tmp_path / "other", folder, coder / "run", *decoder, "--set", "base_filters=6")
    assert status == 1 and "cannot be the ema_decoder" in errors and "twice the base_filters" in errors


def test_what_cannot_be_started_from_is_named(tmp_path, conditional, folder):
    status, _, errors = start(tmp_path, folder, tmp_path)
    assert status == 2 and "holds no config.json" in errors
    (tmp_path / "config.json").write_text("{}")
    status, _, errors = start(tmp_path / "a", folder, tmp_path)
    assert status == 1 and "has no checkpoint" in errors
    status, _, errors = start(tmp_path / "b", folder, conditional[0] / "run", "--arch", "ae", "--size", "32")
    assert status == 1 and "Nothing in" in errors and "same architecture" in errors
