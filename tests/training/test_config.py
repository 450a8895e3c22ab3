"""What the command line answers before anything heavy is imported: help, lists, wrong options, the resolved configuration."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from training import config
from training.recipes import EXPERIMENTS

REPOSITORY = Path(__file__).parents[2]

# Runs `python -m training.fit` and tells on its last line what was imported.
WATCHED = """
import atexit, json, runpy, sys
atexit.register(lambda: print(json.dumps(sorted({"tensorflow", "keras", "matplotlib", "PIL.ImageShow"} & set(sys.modules)))))
sys.argv = ["training.fit", *sys.argv[1:]]
runpy.run_module("training.fit", run_name="__main__", alter_sys=True)
"""


def command_line(*words, cwd=None, **environment):
    """Returns (exit status, output, errors) of the command line, which must not import TensorFlow."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, words)], cwd=cwd or REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}, timeout=120,
    )  # fmt: skip
    output, _, imported = done.stdout.rstrip("\n").rpartition("\n")
    assert json.loads(imported) == [], "something heavy was imported"
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, output, done.stderr


def resolved(*words):
    """Returns the `FitConfig` of a command line."""
    return config.resolve(config.build_parser().parse_args(list(map(str, words))))


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "photos"
    images.mkdir()
    generator = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(images / f"{index}.png")
    return images


def test_help_names_every_option_and_exits_0():
    status, output, _ = command_line("--help")
    assert status == 0
    for option in ("data", "test-data", "classes", "label-depth", "size", "channels", "fit", "transform", "strict", "steps",
                   "batch-size", "run-dir", "export-dir", "export-every", "name", "seed", "precision", "set", "augment",
                   "list", "recipe-help", "dry-run", "jit", "no-jit", "log-every", "sample-every", "checkpoint-every",
                   "workers", "arch", "recipe"):  # fmt: skip
        assert f"--{option}" in output


def test_list_shows_every_architecture_with_its_variants_sources_and_arguments():
    status, output, _ = command_line("--list")
    assert status == 0
    assert {"dcgan", "sngan"} <= set(zoo.names())
    for name in zoo.names():
        card = zoo.describe(name)
        if "zoo/architectures" not in card.path.as_posix():
            continue  # registered by another test of this process
        assert f"{name}: {card.summary}" in output
        for variant, recipe in card.recipes.items():
            assert variant in output and recipe.source in output
        for parameter in set(card.parameters) - {"seed", "augment", "num_classes"}:
            assert f"{parameter}=" in output


def test_recipe_help_shows_every_recipe_as_options_that_can_be_given():
    status, output, _ = command_line("--recipe-help")
    assert status == 0
    for name, experiment in EXPERIMENTS.items():
        assert name in output.splitlines()
        assert experiment.summary in output
        assert f"--arch {experiment.options['arch']}" in output
        assert experiment.command(name) in output


# Options, and what the message must hold: what was received, and what it must be or what to do.
WRONG = {
    "an unknown option": (["--stepz", "5"], ["--stepz"]),
    "an abbreviated option": (["--batch", "5"], ["--batch"]),
    "steps that are no number": (["--steps", "many"], ["--steps", "many"]),
    "no steps": (["--steps", "0"], ["--steps must be at least 1", "Received: 0"]),
    "a negative batch size": (["--batch-size", "-4"], ["--batch-size must be at least 1", "Received: -4"]),
    "no workers": (["--workers", "0"], ["--workers must be at least 1", "Received: 0"]),
    "checkpoints every 0 steps": (
        ["--checkpoint-every", "0"],
        ["--checkpoint-every must be at least 1", "Received: 0"],
    ),
    "exports every 0 steps": (["--export-every", "0"], ["--export-every must be at least 1", "Received: 0"]),
    "an unknown precision": (["--precision", "float16"], ["float16", "mixed_float16"]),
    "two channels": (["--channels", "2"], ["2", "1, 3, 4"]),
    "an unknown fit": (["--fit", "stretch"], ["stretch", "crop", "squash", "pad"]),
    "an unknown architecture": (["--arch", "sngna"], ["'sngna'", "Did you mean 'sngan'?", "dcgan"]),
    "a file that is not there": (
        ["--arch", "nowhere/mine.py:Mine"],
        ["nowhere/mine.py", "--arch path/to/file.py:Class"],
    ),
    "an unknown recipe": (
        ["--recipe", "emoji-face-small"],
        ["'emoji-face-small'", "Did you mean 'emoji-faces-small'?"],
    ),
    "an unknown argument": (["--set", "base_filter=4"], ["'base_filter'", "Did you mean 'base_filters'?"]),
    "an argument without a value": (["--set", "base_filters"], ["NAME=VALUE", "'base_filters'"]),
    "a word for a number": (["--set", "base_filters=wide"], ["`base_filters` must be a whole number", "'wide'"]),
    "a fraction for a count": (["--set", "base_filters=4.5"], ["`base_filters` must be a whole number", "'4.5'"]),
    "an infinite rate": (["--set", "g_learning_rate=inf"], ["`g_learning_rate` must be a finite number", "'inf'"]),
    "an unknown loss": (["--set", "loss=hinges"], ["'hinges'", "Did you mean 'hinge'?", "wasserstein"]),
    "an unknown variant": (["--set", "variant=resnets"], ["'resnets'", "Did you mean 'resnet'?"]),
    "the seed as an argument": (["--set", "seed=3"], ["`seed`", "--seed 3"]),
    "the augmentation as an argument": (["--set", "augment=color"], ["`augment`", "--augment color"]),
    "an unknown augmentation": (["--augment", "colour"], ["'colour'", "color, translation, cutout"]),
    "a side that cannot be": (["--arch", "dcgan", "--size", "48"], ["48", "32 and 64", "8, 16, 32, 64"]),
    "a side that the variant cannot have": (
        ["--set", "variant=resnet", "--size", "40"],
        ["sngan (resnet)", "40", "32 and 48"],
    ),  # fmt: skip
    "no side": (["--size", "0"], ["side 0", "16"]),
    "data that is not there": (["--data", "no/such/folder"], ["'no/such/folder' does not exist", "emoji", "tfds:NAME"]),
    "data with a slip of the pen": (["--data", "emojii"], ["'emojii' does not exist", "Did you mean 'emoji'?"]),
    "data on the web": (["--data", "https://example.com/a.zip"], ["https://example.com/a.zip", "Download it first"]),
    "data that is no archive": (["--data", "setup.cfg"], ["'setup.cfg'", "zip"]),
    "tfds without a name": (["--data", "tfds:"], ["'tfds:'", "tfds:NAME"]),
    "test data that is not there": (["--test-data", "no/such/folder"], ["'no/such/folder' does not exist"]),
    "an unknown transform": (["--transform", "flop"], ["flop", "flip"]),
    "a rotation without degrees": (["--transform", "rotate"], ["rotate", "rotate=DEGREES"]),
    "a name that is a path": (["--name", "../elsewhere"], ["--name", "'../elsewhere'", "letters"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_exits_2_and_says_what_was_received_and_what_to_do_before_tensorflow_is_imported(case, tmp_path):
    words, expected = WRONG[case]
    run_dir = tmp_path / "run"
    status, output, errors = command_line(*words, "--run-dir", run_dir)
    assert status == 2 and output == ""
    for text in expected:
        assert text in errors, errors
    assert not run_dir.exists()


def test_a_users_architecture_is_checked_without_running_its_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "raise SystemExit('this file was run')\n\n\n"
        "class Mine(GAN):\n"
        '    """Mine."""\n\n'
        "    def __init__(self, image_shape, *, width: int = 8, **gan_options):\n"
        "        pass\n"
    )
    status, _, errors = command_line("--arch", f"{path}:Mine", "--set", "widht=4")
    assert status == 2 and "'widht'" in errors and "Did you mean 'width'?" in errors
    status, _, errors = command_line("--arch", f"{path}:Other")
    assert status == 2 and "Other" in errors and "Mine" in errors
    settings = resolved("--arch", f"{path}:Mine", "--set", "width=4")
    assert settings.hyperparameters["width"] == 4 and settings.hyperparameters["latent_dim"] is None


def test_explicit_options_win_over_a_recipe_and_a_recipe_over_the_defaults():
    recipe = resolved("--recipe", "emoji-faces-small")
    assert (recipe.batch_size, recipe.steps, recipe.hyperparameters["base_filters"]) == (
        32,
        EXPERIMENTS["emoji-faces-small"].options["steps"],
        16,
    )
    words = ["--batch-size", 8, "--steps", 7, "--size", 16, "--classes", "Flags", "--augment", "none", "--set",
             "base_filters=4", "--set", "beta_1=0.1", "--seed", 5]  # fmt: skip
    settings = resolved("--recipe", "emoji-faces-small", *words)
    assert (settings.batch_size, settings.steps, settings.image_shape) == (8, 7, (16, 16, 3))
    assert settings.classes == ("Flags",)
    assert settings.hyperparameters["augment"] == "none"
    assert settings.hyperparameters["base_filters"] == 4
    assert settings.hyperparameters["ema_decay"] == 0.99, "a setting of the recipe that was not overridden is gone"
    assert settings.recipe.beta_1 == 0.1
    assert settings.seed == settings.hyperparameters["seed"] == 5
    again = resolved("--recipe", "emoji-faces-small")
    assert again.hyperparameters["base_filters"] == 16 and again.recipe == recipe.recipe, (
        "the override changed the recipe"
    )


def test_unset_options_come_from_the_recipe_of_the_variant():
    for name in zoo.names():
        for variant, recipe in zoo.describe(name).recipes.items():
            words = ["--arch", name, "--set", f"variant={variant}"]
            settings = resolved(*words)
            assert settings.image_shape == (recipe.size, recipe.size, 3)
            assert settings.batch_size == recipe.batch_size
            assert settings.recipe == recipe
            assert settings.hyperparameters["variant"] == variant
            assert recipe.hyperparameters.items() <= settings.hyperparameters.items()
    assert resolved().arch == "sngan", "the documented default"


def test_a_recipe_in_epochs_resolves_to_generator_updates_in_the_dry_run(folder, tmp_path):
    words = ["--set", "variant=dense_head", "--size", 16, "--data", folder, "--dry-run", "--run-dir", tmp_path / "run"]
    cache = {"ZOO_CACHE": str(tmp_path / "cache")}
    assert zoo.describe("sngan").recipes["dense_head"].epochs == 200
    status, output, _ = command_line(*words, cwd=tmp_path, **cache)
    record = json.loads(output)
    assert status == 0
    assert record["batch_size"] == 15 and record["num_images"] == 6
    assert record["steps"] == 200 * 6 // 15
    assert record["hyperparameters"]["variant"] == "dense_head" and record["hyperparameters"]["latent_dim"] == 100
    assert record["recipe"]["g_learning_rate"] == 1e-4
    _, output, _ = command_line(*words, "--batch-size", 5, cwd=tmp_path, **cache)
    assert json.loads(output)["steps"] == 200 * 6 // 5, "an epoch is a pass over the images, whatever the batch size"
    _, output, _ = command_line(*words, "--steps", 7, cwd=tmp_path, **cache)
    assert json.loads(output)["steps"] == 7
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "cache"}, "a dry run wrote something"


def test_the_default_name_tells_architecture_data_and_side_and_is_safe_as_a_folder(folder, tmp_path):
    assert resolved("--arch", "dcgan", "--size", 16).name == "dcgan-emoji-16"
    assert resolved("--data", folder).name == "sngan-photos-32"
    assert resolved("--data", "tfds:mnist:train").name == "sngan-mnist-train-32"
    odd = tmp_path / "my photos (2)"
    odd.mkdir()
    (odd / "a.png").write_bytes(b"")
    settings = resolved("--data", odd)
    assert re.fullmatch(r"sngan-my-photos-2-+32", settings.name)
    assert settings.run_dir == Path("runs") / settings.name
    assert resolved("--name", "mine", "--run-dir", tmp_path / "here").run_dir == tmp_path / "here"
