"""What a training run leaves behind, from every kind of data, through the command line itself.

It runs in this process, which saves the ten seconds of a new one; test_resume.py runs it as a program.
"""

import contextlib
import csv
import io
import json
import math
import shlex
import shutil
import warnings
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import zoo
from training import config, data, fit, pictures
from training.data import to_uint8
from zoo import checkpoint

TINY = ["--size", "16", "--set", "base_filters=4", "--batch-size", "4", "--no-jit"]

MINE = '''
"""A model of one's own."""

import keras

from zoo.adversarial import GAN
from zoo.registry import register


@register("one_dense_layer")
class OneDenseLayer(GAN):
    """A dense layer each."""

    def __init__(self, image_shape, *, width: int = 3, **gan_options):
        super().__init__(image_shape, **gan_options)
        self.width = width
        self.build_networks()

    def build_generator(self):
        pixels = self.image_shape[0] * self.image_shape[1] * self.image_shape[2]
        return keras.Sequential(
            [keras.layers.Dense(self.width), keras.layers.Dense(pixels, "tanh"), keras.layers.Reshape(self.image_shape)]
        )

    def build_discriminator(self):
        return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1), keras.layers.Reshape(())])
'''


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of decoded images of this module's own, so that the user's is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def no_export(monkeypatch):
    monkeypatch.setattr(fit, "export_model", lambda *_: "not exported")


def run(*words):
    """Returns (exit status, output, errors) of the command line, run in this process."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = fit.main([str(word) for word in words])
        finally:
            keras.config.set_dtype_policy("float32")
    return status, output.getvalue(), errors.getvalue()


def train(directory, *words, steps=2):
    """Trains a tiny DCGAN into `directory/run`; returns that and the output."""
    where = ["--run-dir", directory / "run", "--export-dir", directory / "exports"]
    status, output, errors = run("--arch", "dcgan", *TINY, "--steps", steps, *where, *words)
    assert status == 0, errors
    return directory / "run", output


def last(run_dir):
    return checkpoint.read(checkpoint.paths(run_dir / "checkpoints")[-1])


def same(first, second):
    return first.keys() == second.keys() and all(first[key].tobytes() == second[key].tobytes() for key in first)


def rows_of(run_dir):
    with open(run_dir / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


EMOJI = ["--arch", "sngan", *TINY, "--log-every", 2, "--sample-every", 3, "--checkpoint-every", 4]


@pytest.fixture(scope="module")
def emoji(tmp_path_factory, cache):
    """A whole run on the embedded data: (its folder, what it printed)."""
    folder = tmp_path_factory.mktemp("emoji")
    words = [*EMOJI, "--steps", 6, "--export-every", 3, "--name", "mine", "--run-dir", folder / "run"]
    status, output, errors = run(*words, "--export-dir", folder / "exports")
    assert status == 0, errors
    return folder, output


def test_a_run_leaves_everything_it_promises(emoji):
    folder, output = emoji
    run_dir = folder / "run"
    files = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
    board = {name for name in files if name.startswith("tensorboard/")}
    assert files - board == {
        "config.json", "metrics.csv", "progress.png", "losses.png", "samples/reals.png",
        "samples/step_00000000.png", "samples/step_00000003.png", "samples/step_00000006.png",
        "checkpoints/step_00000004.npz", "checkpoints/step_00000006.npz",
    }  # fmt: skip
    assert board
    for path in ("progress.png", "losses.png", "samples/reals.png", "samples/step_00000006.png"):
        assert str(run_dir / path) in output, "where it lies was not told"
    assert "float32" in output, "the precision that `auto` stands for was not told"


def test_metrics_have_a_row_every_so_many_steps_of_finite_numbers(emoji):
    rows = rows_of(emoji[0] / "run")
    health = {"d_real_accuracy", "d_fake_accuracy", "d_gradient_norm", "g_gradient_norm", "sample_diversity"}
    assert set(rows[0]) == {"step", "d_loss", "g_loss", "images_per_second", "data_wait", "time"} | health
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert all(0 <= float(row["data_wait"]) <= 1 for row in rows)
    assert any(float(row["data_wait"]) > 0 for row in rows), "no waiting was measured"
    assert len({row["d_loss"] for row in rows}) == 3, "the losses stand still"


def test_sample_grids_show_the_averaged_model_on_the_same_noise(emoji):
    run_dir = emoji[0] / "run"
    model = zoo.load(run_dir)
    assert int(model.step) == 6
    small = pixels(run_dir / "samples" / "step_00000006.png")[::8, ::8]  # 1024 // (8 * 16) is 8
    distance = np.abs(small.astype(int) - pictures.grid(to_uint8(model.sample(64, 0))))
    assert distance.max() <= 1 and (distance > 0).mean() < 0.01
    assert (small != pixels(run_dir / "samples" / "step_00000000.png")[::8, ::8]).any()


def test_the_picture_of_real_images_shows_64_of_the_training_images(emoji):
    small = pixels(emoji[0] / "run" / "samples" / "reals.png")[::8, ::8]
    assert small.shape == (128, 128, 3)
    cells = small.reshape(8, 16, 8, 16, 3).swapaxes(1, 2).reshape(64, -1)
    reals, _ = fit.load_images(config.resolve(config.build_parser().parse_args(list(map(str, EMOJI)))))
    known = {image.tobytes() for image in np.asarray(reals.images)}
    assert all(cell.tobytes() in known for cell in cells)
    assert len({cell.tobytes() for cell in cells}) > 60


def test_the_strip_of_the_progress_has_a_row_for_every_grid(emoji):
    run_dir = emoji[0] / "run"
    strip = pixels(run_dir / "progress.png")
    assert strip.shape == (3 * 128, 1024, 3)
    for place, step in enumerate((0, 3, 6)):
        grid = pixels(run_dir / "samples" / f"step_{step:08d}.png")
        np.testing.assert_array_equal(strip[128 * place : 128 * (place + 1)], grid[:128])
    assert pixels(run_dir / "losses.png").std() > 5


def test_the_configuration_is_written_down_complete(emoji):
    record = json.loads((emoji[0] / "run" / "config.json").read_text())
    assert record["arch"] == "sngan" and record["image_shape"] == [16, 16, 3] and record["data"] == "emoji"
    assert record["hyperparameters"]["variant"] == "cnn" and record["hyperparameters"]["latent_dim"] == 128
    assert record["precision"] == "float32", "`auto` must be written as what it came to"
    assert record["steps"] == 6 and record["batch_size"] == 4 and record["seed"] == 0
    assert record["recipe"]["g_learning_rate"] == 2e-4
    assert len(record["data_fingerprint"]) == 64 and record["versions"]["tensorflow"] == tf.__version__
    assert "Flags" in record["class_names"]


def test_tensorboard_gets_the_scalars_and_the_grids(emoji):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (path,) = (emoji[0] / "run" / "tensorboard").iterdir()
    found = {(value.tag, event.step) for event in EventFileLoader(str(path)).Load() for value in event.summary.value}
    assert {(name, step) for name in ("d_loss", "g_loss") for step in (2, 4, 6)} | {
        ("samples", 3),
        ("samples", 6),
    } <= found
    assert not {tag for tag, _ in found} & {"learning_rate", "loss"}


def test_exports_come_every_so_many_steps_and_once_at_the_end(emoji):
    folder, output = emoji
    versions = sorted((folder / "exports" / "mine").iterdir())
    assert [path.name for path in versions] == ["1", "2"]
    cards = [json.loads((path / "model.json").read_text()) for path in versions]
    assert [card["step"] for card in cards] == [3, 6]
    record = json.loads((folder / "run" / "config.json").read_text())
    for key in ("data", "data_fingerprint", "batch_size", "seed", "precision", "recipe"):
        assert cards[1]["training"][key] == record[key]
    assert str(versions[1]) in output
    signature = tf.saved_model.load(str(versions[1])).signatures["sample"]
    images = signature(seed=tf.range(4, dtype=tf.int64), truncation=tf.ones([4]))["images"].numpy()
    distance = np.abs(images.astype(int) - to_uint8(zoo.load(folder / "run").sample(4)))
    assert distance.max() <= 1 and (distance > 0).mean() < 0.01


def test_the_command_that_is_proposed_at_the_end_can_be_given(emoji):
    from tensorflow.python.tools import saved_model_cli

    proposed = emoji[1][emoji[1].index("saved_model_cli run") :].replace("\\\n", " ").splitlines()[0]
    words = shlex.split(proposed)
    options = dict(zip(words[2::2], words[3::2], strict=True))
    # As the program reads it: literals only, no NumPy expressions.
    values = saved_model_cli.preprocess_input_exprs_arg_string(options["--input_exprs"])
    signature = tf.saved_model.load(options["--dir"]).signatures[options["--signature_def"]]
    feeds = {
        name: tf.constant(value, signature.structured_input_signature[1][name].dtype) for name, value in values.items()
    }
    assert signature(**feeds)["images"].shape == (1, 16, 16, 3)


def test_an_export_trained_on_emoji_carries_100_images_that_the_training_never_saw_and_their_credit(emoji):
    for version in ("1", "2"):
        with np.load(
            emoji[0] / "exports" / "mine" / version / "assets.extra" / "reals.npz", allow_pickle=False
        ) as file:
            images, credit = file["images"], str(file["credit"])
        assert images.shape == (100, 16, 16, 3) and images.dtype == np.uint8
        assert "Twemoji" in credit and "CC-BY 4.0" in credit
    everything = data.load("emoji", size=16, progress=False)
    reals, held_out = fit.load_images(config.resolve(config.build_parser().parse_args(list(map(str, EMOJI)))))
    np.testing.assert_array_equal(images, held_out.images[:100])
    assert not set(reals.content_hashes) & set(held_out.content_hashes)
    assert len(reals) + len(held_out) == len(everything) and len(reals) > 0.9 * len(everything)
    record = json.loads((emoji[0] / "run" / "config.json").read_text())
    assert record["num_images"] == len(reals) and record["data_fingerprint"] == reals.fingerprint


def test_the_100_are_held_out_at_every_side(emoji):
    for side in (32, 64):
        words = ["--arch", "sngan", "--size", str(side)]
        _, held_out = fit.load_images(config.resolve(config.build_parser().parse_args(words)))
        assert len(held_out) >= 100


def test_how_often_something_is_written_does_not_change_the_weights(emoji, tmp_path, no_export):
    words = [*EMOJI[: len(EMOJI) - 6], "--steps", 6, "--run-dir", tmp_path / "run"]
    assert run(*words)[0] == 0
    assert same(last(tmp_path / "run"), last(emoji[0] / "run"))


def test_after_a_crash_metrics_have_each_step_once(emoji, tmp_path, no_export):
    run_dir = tmp_path / "run"
    shutil.copytree(emoji[0] / "run", run_dir)
    (run_dir / "checkpoints" / "step_00000006.npz").unlink()
    with open(run_dir / "metrics.csv", "a", encoding="utf-8") as file:
        file.write("8,0.5,0.5,1.0,1.0\r\n10,0.")  # written after the last checkpoint, the last row cut off
    before = rows_of(emoji[0] / "run")
    assert run(*EMOJI, "--steps", 6, "--run-dir", run_dir)[0] == 0
    rows = rows_of(run_dir)
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert [(row["d_loss"], row["g_loss"]) for row in rows] == [(row["d_loss"], row["g_loss"]) for row in before]


# Other data.


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    """A folder with 6 reddish images in `red` and 4 bluish ones in `blue`; no image is its own mirror image."""
    root, generator = tmp_path_factory.mktemp("two_classes"), np.random.default_rng(0)
    for name, channel, count in (("red", 0, 6), ("blue", 2, 4)):
        (root / name).mkdir()
        for index in range(count):
            image = generator.integers(0, 100, (20, 20, 3), np.uint8)
            image[..., channel] += 150
            Image.fromarray(image).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def on_folder(two_classes, tmp_path_factory):
    """The last checkpoint of a run of two steps on that folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "export_model", lambda *_: "not exported")
        return last(train(tmp_path_factory.mktemp("on_folder"), "--data", two_classes)[0])


def test_a_zip_of_a_folder_trains_as_the_folder_does(two_classes, on_folder, tmp_path, no_export):
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(two_classes.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(two_classes))
    run_dir, _ = train(tmp_path, "--data", path)
    assert same(last(run_dir), on_folder)


def test_flipping_the_training_images_changes_what_is_learnt(two_classes, on_folder, tmp_path, no_export):
    run_dir, _ = train(tmp_path, "--data", two_classes, "--transform", "flip")
    assert last(run_dir).keys() == on_folder.keys() and not same(last(run_dir), on_folder)
    assert json.loads((run_dir / "config.json").read_text())["transform"] == "flip"


def test_classes_keeps_only_the_images_with_that_label(two_classes, tmp_path, no_export):
    run_dir, _ = train(tmp_path, "--data", two_classes, "--classes", "blue")
    record = json.loads((run_dir / "config.json").read_text())
    assert record["num_images"] == 4 and record["class_names"] == ["blue"]
    reals = pixels(run_dir / "samples" / "reals.png")
    assert reals.shape == (256, 1024, 3)  # four images
    blue, red = (reals[..., channel].reshape(256, 4, 256).mean((0, 2)) for channel in (2, 0))
    assert (blue > red + 100).all()


def test_an_unknown_class_exits_1_and_names_those_there_are(two_classes, tmp_path):
    status, _, errors = run("--data", two_classes, "--classes", "blu", "--run-dir", tmp_path / "run")
    assert status == 1 and "'blu'" in errors and "Did you mean 'blue'?" in errors and "red" in errors
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_image_is_named_and_skipped_or_with_strict_an_error(two_classes, tmp_path, no_export):
    shutil.copytree(two_classes, tmp_path / "images")
    (tmp_path / "images" / "red" / "broken.png").write_bytes(b"no image")
    words = ["--data", tmp_path / "images", "--run-dir", tmp_path / "run", "--dry-run"]
    status, output, errors = run(*words)
    assert status == 0 and json.loads(output)["num_images"] == 10 and "broken.png" in errors
    status, _, errors = run(*words, "--strict")
    assert status == 1 and "broken.png" in errors


def test_a_set_of_tensorflow_datasets_in_a_local_folder_trains(tmp_path, monkeypatch, no_export):
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():  # it must be found by its files

        class ZooTinySquares(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(20, 20, 3)),
                    "label": tfds.features.ClassLabel(names=["a", "b"]),
                }
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                generator = np.random.default_rng(0)
                for index in range(6):
                    yield index, {"image": generator.integers(0, 256, (20, 20, 3), np.uint8), "label": index % 2}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the writing, which is the test's own
        ZooTinySquares(data_dir=str(tmp_path / "sets")).download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    run_dir, _ = train(tmp_path, "--data", "tfds:zoo_tiny_squares")
    record = json.loads((run_dir / "config.json").read_text())
    assert record["num_images"] == 6 and record["class_names"] == ["a", "b"]
    assert [row["step"] for row in rows_of(run_dir)] == ["2"]
    status, _, errors = run("--data", "tfds:zoo_tiny_squares:tset", "--run-dir", tmp_path / "other")
    assert status == 1 and "tset" in errors and "train" in errors


def test_a_users_architecture_trains_loads_and_exports_like_one_of_the_zoo(two_classes, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    words = [
        "--arch",
        f"{path}:OneDenseLayer",
        "--size",
        8,
        "--batch-size",
        2,
        "--steps",
        2,
        "--no-jit",
        "--set",
        "width=5",
    ]
    status, _, errors = run(
        *words, "--data", two_classes, "--run-dir", tmp_path / "run", "--export-dir", tmp_path / "exports"
    )
    assert status == 0, errors
    model = zoo.load(tmp_path / "run")
    assert type(model).__name__ == "OneDenseLayer" and model.width == 5 and int(model.step) == 2
    name = f"onedenselayer-{two_classes.name}-8"
    card = json.loads((tmp_path / "exports" / name / "1" / "model.json").read_text())
    assert card["hyperparameters"]["width"] == 5 and card["image_shape"] == [8, 8, 3]
    assert not (tmp_path / "exports" / name / "1" / "assets.extra" / "reals.npz").exists(), (
        "one's own images were copied"
    )


@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_gray_and_alpha_train(two_classes, tmp_path, no_export, channels):
    run_dir, _ = train(tmp_path, "--data", two_classes, "--channels", channels)
    for name in ("reals", "step_00000002"):
        with Image.open(run_dir / "samples" / f"{name}.png") as picture:
            assert picture.mode == {1: "L", 4: "RGBA"}[channels]
    assert zoo.load(run_dir).sample(1).shape == (1, 16, 16, channels)


# What goes wrong after the options were found good.


def test_a_run_directory_that_cannot_be_made_exits_1_with_a_message(two_classes, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, errors = run("--data", two_classes, *TINY, "--steps", 1, "--run-dir", tmp_path / "file" / "run")
    assert status == 1 and errors.strip().splitlines()[-1].startswith("training.fit:") and "file" in errors


def test_a_configuration_that_cannot_be_read_exits_1_and_stays_as_it_is(two_classes, tmp_path):
    (tmp_path / "config.json").write_text('{"arch": ')
    status, _, errors = run("--data", two_classes, *TINY, "--steps", 1, "--run-dir", tmp_path)
    assert status == 1 and "config.json" in errors and "--run-dir" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == '{"arch": '


def test_fewer_steps_than_are_done_do_not_shorten_a_run(emoji, tmp_path, no_export):
    run_dir = tmp_path / "run"
    shutil.copytree(emoji[0] / "run", run_dir)
    run(*EMOJI, "--steps", 4, "--run-dir", run_dir)
    assert same(last(run_dir), last(emoji[0] / "run"))
    assert len(rows_of(run_dir)) == 3
