"""The documents' experiments by name: what each resolves to, against the documents' tables, and that each trains."""

import keras
import pytest

from training import config, datasets, fit
from training.recipes import EXPERIMENTS
from zoo.registry import parse_value

# Of each recipe what architectures.md has of its document: constructor arguments, training settings, and the rest.
TABLE = {
    "emoji-faces-small": {"arch": "sngan", "side": 32, "batch_size": 32, "steps": 4000, "base_filters": 16},
    "photos-small": {
        "arch": "fastgan", "variant": "standard", "side": 32, "batch_size": 16, "steps": 3300, "base_filters": 16,
        "reconstruction": "multiscale_l1", "augment": "color,translation",
    },
    "car-fronts-dcgan32": {
        "arch": "dcgan", "variant": "keras32", "side": 32, "batch_size": 32, "latent_dim": 100, "loss": "non_saturating",
        "g_learning_rate": 2e-4, "d_learning_rate": 2e-4, "beta_1": 0.5, "base_filters": 64, "dropout": 0.4,
    },
    "cars-dcgan64": {
        "arch": "dcgan", "variant": "torch64", "side": 64, "batch_size": 128, "latent_dim": 100, "loss": "non_saturating",
        "g_learning_rate": 2e-4, "d_learning_rate": 2e-4, "beta_1": 0.5, "beta_2": 0.999, "base_filters": 64,
    },
    "paintings-sngan128": {
        "arch": "sngan", "variant": "dense_head", "side": 128, "batch_size": 15, "epochs": 200, "latent_dim": 100,
        "g_learning_rate": 1e-4, "d_learning_rate": 1e-4, "beta_1": 0.5, "head_pooling": "flatten", "dropout": 0.25,
    },
    "cifar-cars-dcgan32": {"arch": "dcgan", "variant": "keras32", "side": 32, "batch_size": 32},
    "bedrooms-gan28": {
        "arch": "gan", "side": 28, "channels": 1, "batch_size": 128, "epochs": 50, "latent_dim": 50,
        "g_learning_rate": 2e-4, "d_learning_rate": 2e-4, "beta_1": 0.5, "beta_2": 0.999, "weight_decay": 0.01,
    },
    "bedrooms-dcgan64": {
        "arch": "dcgan", "variant": "torch64", "side": 64, "batch_size": 128, "latent_dim": 100, "loss": "non_saturating",
        "g_learning_rate": 2e-4, "d_learning_rate": 2e-4, "beta_1": 0.5, "beta_2": 0.999,
    },
    "bedrooms-vae64": {
        "arch": "vae", "side": 64, "batch_size": 64, "epochs": 100, "latent_dim": 256, "kl_weight": 3.07,
        "g_learning_rate": 5e-3, "learning_rate_decay": "exponential", "decay_rate": 0.95,
    },
    "bedrooms-vae256": {
        "arch": "vae", "side": 256, "batch_size": 8, "steps": 1500 * 662 // 8, "latent_dim": 512, "kl_weight": 49.2,
        "g_learning_rate": 3e-4, "learning_rate_decay": "constant",
    },
    "bedrooms-fastgan1024": {
        "arch": "fastgan", "variant": "standard", "side": 1024, "batch_size": 8, "steps": 50_000, "latent_dim": 256,
        "g_learning_rate": 2e-4, "d_learning_rate": 2e-4, "beta_1": 0.5, "beta_2": 0.999, "ema_decay": 0.999,
        "transform": "flip", "augment": "color,translation", "reconstruction": "auto",
    },
    "parts-fastgan512": {
        "arch": "fastgan", "variant": "attention", "side": 512, "batch_size": 16, "latent_dim": 256, "per_class": True,
        "g_learning_rate": 1e-4, "d_learning_rate": 4e-4, "beta_1": 0.0, "beta_2": 0.9, "ema_decay": 0.995,
    },
    "parts-dcgan512": {"arch": "dcgan", "variant": "torch64", "side": 512},
    "parts-ae": {"arch": "ae"},
}  # fmt: skip
OURS = {"emoji-faces-small", "photos-small"}
DOWNLOADED = {"car-fronts-dcgan32", "cars-dcgan64", "paintings-sngan128"} | {
    name for name in TABLE if name.startswith("bedrooms-")
}
# Sides that train within seconds and keep to the variant; the others are small enough.
SMALLER = {
    "paintings-sngan128": 32, "bedrooms-vae64": 32, "bedrooms-vae256": 32, "bedrooms-fastgan1024": 32,
    "parts-fastgan512": 64, "parts-dcgan512": 64, "parts-ae": 32,
}  # fmt: skip
QUICK = ("bedrooms-gan28", "cifar-cars-dcgan32")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def resolved(name, *words):
    return config.resolve(config.build_parser().parse_args(["--recipe", name, *map(str, words)]))


def test_there_is_a_row_for_every_recipe():
    assert set(TABLE) == set(EXPERIMENTS)


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_resolves_to_what_its_document_ran(name):
    settings = resolved(name, "--data", "emoji")
    found = {**vars(settings.recipe), **settings.hyperparameters, **vars(settings)}
    found["side"], _, found["channels"] = settings.image_shape
    found["epochs"] = None if settings.steps is not None else settings.recipe.epochs
    expected = {"channels": 3, "conditional": False, "per_class": False} | TABLE[name]
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("name", TABLE)
def test_every_value_that_a_recipe_sets_arrives(name):
    settings = resolved(name, "--data", "emoji")
    found = {**vars(settings.recipe), **settings.hyperparameters}
    for text in EXPERIMENTS[name].options.get("settings", []):
        argument, _, value = text.partition("=")
        assert found[argument] == parse_value(argument, type(found[argument]), value)


@pytest.mark.parametrize("name", TABLE)
def test_explicit_options_win_over_every_recipe(name):
    settings = resolved(name, "--data", "emoji", "--batch-size", 3, "--steps", 5, "--set", "base_filters=4")
    assert (settings.data, settings.batch_size, settings.steps) == ("emoji", 3, 5)
    assert settings.hyperparameters["base_filters"] == 4


@pytest.mark.parametrize("name", sorted(DOWNLOADED))
def test_without_its_data_a_recipe_says_how_to_get_them(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        fit.main(["--recipe", name])
    assert stopped.value.code == 2
    wanted = datasets.SETS[EXPERIMENTS[name].options["data"].split(":")[1].split("/")[0]]
    errors = capsys.readouterr().err
    assert wanted.instructions in errors and str(tmp_path / "downloads" / "manual") in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(set(TABLE) - DOWNLOADED - {"emoji-faces-small", "cifar-cars-dcgan32"}))
def test_a_recipe_for_pictures_of_ones_own_asks_for_them(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        fit.main(["--recipe", name])
    assert stopped.value.code == 2 and "a folder of images" in capsys.readouterr().err


@pytest.mark.parametrize("name", TABLE)
def test_every_recipe_says_what_was_reported_and_how_to_run_it_on_ones_own_copy(name):
    experiment = EXPERIMENTS[name]
    words = experiment.command(name).split()
    assert words[:3] == ["python", "-m", "training.fit"]
    arguments = config.build_parser().parse_args(words[3:])
    assert arguments.recipe == name and arguments.data == experiment.own_data
    if name not in OURS:
        assert "not stated in the notes we have" in experiment.reported
        assert "document" in experiment.summary


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TABLE]
)
def test_every_recipe_trains(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fit, "export_model", lambda *_: "not exported")  # tests/training/test_export.py does
    monkeypatch.setattr(fit, "_exported_already", lambda *_: None)
    words = ["--recipe", name, "--data", "emoji", "--classes", "Flags", "--steps", 2, "--batch-size", 2, "--no-jit",
             "--set", "base_filters=4", "--set", "latent_dim=8", "--run-dir", tmp_path / "run"]  # fmt: skip
    words += ["--size", SMALLER[name]] if name in SMALLER else []
    words += ["--set", "reconstruction=multiscale_l1"] if "fastgan" in name else []
    try:
        status = fit.main(list(map(str, words)))
    finally:
        keras.config.set_dtype_policy("float32")
    assert status == 0, capsys.readouterr().err
    (metrics,) = (tmp_path / "run").rglob("metrics.csv")
    assert metrics.read_text().splitlines()[-1].startswith("2,")
