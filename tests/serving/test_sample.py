"""`python -m serving.sample` end to end, on SavedModels of a few lines and one of the zoo's."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving import interpolation, sample, sample_folder, saved_model
from tests.disk import largest_file
from training import data

REPOSITORY = Path(__file__).parents[2]
SIDE, LATENT_DIM = 8, 3
CLASS_NAMES = ("cat", "Dog", "dog", "../up", "con", ".", "a" * 300, "9", "Ünï & çó")


def save_model(directory, classes=(), channels=3, card=True, mend=lambda functions: functions, ending="/1"):
    """A SavedModel of noise whose pixels are a function of seed, truncation and label, as the project exports them."""
    directory = Path(f"{directory}{ending}")
    shape = (SIDE, SIDE, channels)
    weights = tf.Variable(tf.random.stateless_normal([LATENT_DIM, SIDE * SIDE * channels], [1, 2]))
    named = {
        "z": tf.TensorSpec([None, LATENT_DIM], tf.float32, name="z"),
        "seed": tf.TensorSpec([None], tf.int64, name="seed"),
        "truncation": tf.TensorSpec([None], tf.float32, name="truncation"),
        "label": tf.TensorSpec([None], tf.int64, name="label"),
    }
    label = ["label"] if classes else []

    def latents(seed):
        pairs = tf.stack([seed, tf.zeros_like(seed)], axis=1)
        return tf.map_fn(
            lambda pair: tf.random.stateless_normal([LATENT_DIM], pair), pairs, fn_output_signature=tf.float32
        )

    def generate(z, label=0):
        shade = tf.reshape(tf.cast(label, tf.float32) / 10, [-1, 1])
        return tf.tanh(tf.reshape(z @ weights + shade, [-1, *shape]))

    def draw(seed, truncation, label=0):
        images = generate(latents(seed) * truncation[:, None], label)
        return {"images": tf.cast(tf.round((images + 1) * 127.5), tf.uint8)}

    functions = mend({
        "serving_default": (lambda z, *rest: {"images": generate(z, *rest)}, ["z", *label]),
        "latents": (lambda seed: {"z": latents(seed)}, ["seed"]),
        "sample": (draw, ["seed", "truncation", *label]),
    })  # fmt: skip
    module = tf.Module()
    module.weights = weights
    signatures = {
        name: tf.function(function, input_signature=[named[each] for each in inputs])
        for name, (function, inputs) in functions.items()
    }
    tf.saved_model.save(module, str(directory), signatures=signatures)
    if card:
        inputs = {name: {"inputs": dict.fromkeys(inputs, {})} for name, (_, inputs) in functions.items()}
        card = {"image_shape": shape, "class_names": list(classes), "signatures": inputs}
        (directory / "model.json").write_text(json.dumps(card))
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_model(root / "noise")
    save_model(root / "noise", ending="/2")
    save_model(root / "pets", CLASS_NAMES)
    save_model(root / "glass", channels=4)
    save_model(root / "grey", channels=1)
    save_model(root / "elsewhere", card=False, ending="")
    return root


def frames_of(path, mode):
    """The frames of an endless animation, uint8 `[k, height, width, channels]`."""
    with Image.open(path) as opened:
        assert opened.info["loop"] == 0
        frames = []
        for frame in range(opened.n_frames):
            opened.seek(frame)
            frames.append(np.asarray(opened.convert(mode)))
    return np.stack(frames)


def run(model, out, *options, status=0):
    assert sample.main(["--model", str(model), "--out", str(out), *map(str, options)]) == status


def rows_of(folder):
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(path):
    with Image.open(path) as opened:
        image = np.asarray(opened)
    return image if image.ndim == 3 else image[..., None]


# What is written


def test_every_image_is_that_of_its_seed_and_the_manifest_lists_it(models, tmp_path):
    run(models / "noise", tmp_path / "out", "--count", 70, "--seed", -3)
    rows = rows_of(tmp_path / "out")
    assert [int(row["seed"]) for row in rows] == list(range(-3, 67))
    assert {(row["model"], row["version"], row["label"]) for row in rows} == {("noise", "2", "")}
    expected = sample.draw(models / "noise", range(-3, 67), progress=False)
    assert all(
        (pixels(tmp_path / "out" / row["file"]) == image).all() for row, image in zip(rows, expected, strict=True)
    )
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {row["file"] for row in rows} | {"manifest.csv", "sample.json"}


def test_draw_is_the_models_own_signature_whatever_the_batch(models):
    seeds = [5, 5, -7, 2**62, *range(100)]
    images = sample.draw(models / "pets", seeds, labels=[8] * 104, truncation=0.25, progress=False)
    signature = tf.saved_model.load(str(models / "pets/1")).signatures["sample"]
    for place in (0, 2, 3, 103):
        alone = signature(
            seed=tf.constant([seeds[place]], tf.int64), truncation=tf.constant([0.25]), label=tf.constant([8], tf.int64)
        )["images"].numpy()
        assert (images[place] == alone[0]).all()
    assert (images[0] == images[1]).all() and images.dtype == np.uint8 and images.shape == (104, SIDE, SIDE, 3)
    assert sample.draw(models / "noise/1", [], progress=False).shape == (0, SIDE, SIDE, 3)


def test_labels_go_round_and_per_class_gives_as_many_of_each(models, tmp_path):
    run(models / "pets", tmp_path / "out", "--per-class", "--count", 2, "--seed", 4)
    rows = rows_of(tmp_path / "out")
    assert [row["label"] for row in rows] == [CLASS_NAMES[seed % 9] for seed in range(4, 22)]
    expected = sample.draw(models / "pets", range(4, 22), progress=False)
    given = sample.draw(models / "pets", range(4, 22), labels=np.arange(4, 22) % 9, progress=False)
    assert (expected == given).all()
    assert all(
        (pixels(tmp_path / "out" / row["file"]) == image).all() for row, image in zip(rows, expected, strict=True)
    )
    run(models / "pets", tmp_path / "one", "--label", "cat", "--count", 3)
    run(models / "pets", tmp_path / "two", "--label", "8", "--count", 3)
    run(models / "pets", tmp_path / "nine", "--label", "9", "--count", 3)  # a name goes before a number
    assert [row["label"] for row in rows_of(tmp_path / "one")] == ["cat"] * 3
    assert [row["label"] for row in rows_of(tmp_path / "two")] == ["Ünï & çó"] * 3
    assert [row["label"] for row in rows_of(tmp_path / "nine")] == ["9"] * 3


def test_training_reads_the_folders_as_classes(models, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    run(models / "pets", tmp_path / "out", "--per-class", "--count", 2)
    read = data.load(tmp_path / "out", size=SIDE, progress=False)
    assert len(read) == 18 and len(read.class_names) == 9 and not read.skipped
    assert {"cat", "Dog", "Ünï & çó"} <= set(read.class_names)


def test_folder_names_are_safe_distinct_and_the_classes_own_where_they_can_be():
    names = sample_folder.folder_names(CLASS_NAMES)
    assert names[0] == "cat" and names[7:] == ["9", "Ünï & çó"]
    assert len({name.casefold() for name in names}) == 9
    for name in names:
        assert name == name.strip(" .") and not set(name) & set('<>:"/\\|?*\0\n') and 0 < len(name.encode()) <= 130
        assert name.lower() not in ("con", "..")


@pytest.mark.parametrize(("file_format", "suffix"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
@pytest.mark.parametrize("model", ["noise", "grey", "glass"])
def test_png_and_webp_keep_every_pixel_and_jpeg_nearly(models, tmp_path, file_format, suffix, model):
    if (model, file_format) == ("glass", "jpeg"):
        with pytest.raises(SystemExit):
            run(models / model, tmp_path / "out", "--count", 2, "--format", "jpeg")
        return
    run(models / model, tmp_path / "out", "--count", 2, "--format", file_format, "--truncation", 0.5)
    expected = sample.draw(models / model, [0, 1], truncation=0.5, progress=False)
    for seed in (0, 1):
        path = tmp_path / "out" / f"{seed:08d}.{suffix}"
        with Image.open(path) as opened:
            assert opened.format == file_format.upper()
        difference = pixels(path).astype(int) - expected[seed]
        assert np.abs(difference).mean() < 12 if file_format == "jpeg" else not difference.any()


def test_npz_holds_images_seeds_and_labels_in_several_files(models, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_folder, "MOST_IMAGES", 100)
    run(models / "pets", tmp_path / "out", "--count", 230, "--format", "npz")
    rows = rows_of(tmp_path / "out")
    images, seeds, labels = [], [], []
    for name in dict.fromkeys(row["file"] for row in rows):
        with np.load(tmp_path / "out" / name, allow_pickle=False) as archive:
            images.append(archive["images"])
            seeds += archive["seeds"].tolist()
            labels += archive["class_names"][archive["labels"]].tolist()
    assert [len(part) for part in images] == [100, 100, 30]
    assert seeds == [int(row["seed"]) for row in rows] == list(range(230))
    assert labels == [row["label"] for row in rows]
    assert (np.concatenate(images) == sample.draw(models / "pets", range(230), progress=False)).all()


def test_an_export_of_the_zoo_is_drawn_without_any_of_our_packages(saved_models, tmp_path):
    program = (
        "import sys\nfrom serving import sample\n"
        "status = sample.main(sys.argv[1:])\n"
        "print(status, sorted({'zoo', 'training', 'evaluation'} & set(sys.modules)))"
    )
    options = ["--model", str(saved_models / "faces"), "--count", "3", "--seed", "5", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", program, *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert "3/3" in done.stderr and "oneDNN" not in done.stderr  # progress, and none of TensorFlow's chatter
    expected = sample.draw(saved_models / "faces", [5, 6, 7], progress=False)
    for seed, image in zip((5, 6, 7), expected, strict=True):
        assert np.abs(pixels(tmp_path / f"out/{seed:08d}.png").astype(int) - image).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vae", "ae"])
def test_autoencoders_are_drawn_and_interpolated_too(tmp_path, arch):
    import zoo
    from training.export import export

    model = zoo.create(arch, image_shape=(32, 32, 3), latent_dim=4)
    directory = export(model, tmp_path / "saved_models", "mine")
    drawn = sample.draw(directory, [5, 6, 7], progress=False)
    assert np.abs(drawn.astype(int) - data.to_uint8(model.sample(3, seed=5))).max() <= 1
    run(directory, tmp_path / "out", "--interpolate", 5, 7, "--frames", 3)
    frames = frames_of(tmp_path / "out/5-to-7.webp", "RGB")[:, ::8, ::8]
    assert np.abs(frames[[0, 2]].astype(int) - drawn[[0, 2]]).max() <= 1


# Going on


def test_the_same_command_goes_on_after_kill_9_to_the_same_bytes(models, tmp_path):
    """The process ends at the worst moment: a file stands in its place, and its row is not yet written."""
    program = (
        "import os, signal, sys\nfrom serving import sample, sample_folder\n"
        "real, done = os.replace, []\n"
        "def replace(source, target):\n"
        "    real(source, target)\n"
        "    done.append(target)\n"
        "    if sum(str(each).endswith('.png') for each in done) == 75:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = replace\n"
        "sample.main(sys.argv[1:])"
    )
    arguments = ["--model", str(models / "pets"), "--count", "150"]
    command = [sys.executable, "-c", program, *arguments, "--out", str(tmp_path / "killed")]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=120).returncode == -9
    assert len(list((tmp_path / "killed").rglob("*.png"))) == 75 and len(rows_of(tmp_path / "killed")) == 74
    (tmp_path / "killed/.writing").write_bytes(b"half an im")
    (tmp_path / "killed/cat/00000009.png").write_bytes(b"")  # as after a power cut
    kept = (tmp_path / "killed/cat/00000018.png").stat().st_ino
    run(models / "pets", tmp_path / "killed", "--count", 150)
    run(models / "pets", tmp_path / "whole", "--count", 150)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert (tmp_path / "killed/cat/00000018.png").stat().st_ino == kept


def test_a_larger_count_goes_on_and_leaves_what_is_there(models, tmp_path):
    run(models / "pets", tmp_path / "out", "--count", 5)
    before = (tmp_path / "out/cat/00000000.png").stat().st_ino
    run(models / "pets", tmp_path / "out", "--count", 90)
    run(models / "pets", tmp_path / "whole", "--count", 10, "--per-class")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (tmp_path / "out/cat/00000000.png").stat().st_ino == before


def test_a_finished_folder_is_answered_without_loading_the_model_and_its_manifest_is_mended(models, tmp_path):
    shutil.copytree(models / "noise/1", tmp_path / "model/1")
    run(tmp_path / "model", tmp_path / "out", "--count", 5)
    before = contents(tmp_path / "out")
    (tmp_path / "out/manifest.csv").unlink()
    program = "import sys\nfrom serving import sample\nprint(sample.main(sys.argv[1:]), 'tensorflow' in sys.modules)"
    command = [sys.executable, "-c", program, "--model", str(tmp_path / "model"), "--count", "5", "--out"]
    done = subprocess.run([*command, str(tmp_path / "out")], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
    assert contents(tmp_path / "out") == before
    (tmp_path / "out/.writing").write_bytes(b"half an im")
    run(tmp_path / "model", tmp_path / "out", "--count", 5)
    assert contents(tmp_path / "out") == before


def test_another_configuration_is_refused_with_the_difference(models, tmp_path, capsys):
    run(models / "pets", tmp_path / "out", "--count", 9)
    before = contents(tmp_path / "out")
    for options, difference in [
        (["--count", 9, "--truncation", 0.5], "truncation: 1.0 there, 0.5 now"),
        (["--count", 9, "--seed", 1], "seed: 0 there, 1 now"),
        (["--count", 8], "count: 9 there, 8 now"),
        (["--count", 9, "--format", "webp"], "format: 'png' there, 'webp' now"),
        (["--count", 9, "--label", "cat"], "['cat'] now"),
    ]:
        capsys.readouterr()
        run(models / "pets", tmp_path / "out", *options, status=1)
        message = capsys.readouterr().err
        assert difference in message and "another --out" in message
    run(models / "noise", tmp_path / "out", "--count", 9, status=1)
    assert "model: 'pets' there, 'noise' now" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def test_other_weights_under_the_same_name_and_version_are_another_configuration(models, tmp_path, capsys):
    shutil.copytree(models / "noise/1", tmp_path / "model/1")
    run(tmp_path / "model", tmp_path / "out", "--count", 2)
    shutil.rmtree(tmp_path / "model/1")
    shutil.copytree(models / "grey/1", tmp_path / "model/1")
    run(tmp_path / "model", tmp_path / "out", "--count", 2, status=1)
    assert "savedmodel_sha256" in capsys.readouterr().err


def test_files_of_others_are_not_touched(models, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/00000000.png").write_bytes(b"mine")
    run(models / "noise", tmp_path / "out", "--count", 2, status=1)
    assert "00000000.png" in capsys.readouterr().err
    assert contents(tmp_path / "out") == {"00000000.png": b"mine"}


def test_a_second_process_at_the_same_time_is_refused(models, tmp_path, capsys):
    run(models / "noise", tmp_path / "out", "--count", 2)
    record = json.loads((tmp_path / "out/sample.json").read_text())
    samples = sample_folder.plan(np.arange(2), None, (), "png", (SIDE, SIDE, 3))
    with sample_folder.SampleFolder(tmp_path / "out", samples, "noise", 2, record):
        run(models / "noise", tmp_path / "out", "--count", 3, status=1)
        assert "Another process is writing" in capsys.readouterr().err
    run(models / "noise", tmp_path / "out", "--count", 3)


def test_a_full_disk_leaves_whole_files_and_their_rows_and_the_same_command_goes_on(models, tmp_path, capsys):
    run(models / "noise", tmp_path / "whole", "--count", 200)
    with largest_file(1500):  # the manifest outgrows it in the middle of a row
        run(models / "noise", tmp_path / "out", "--count", 200, status=1)
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("serving.sample: File too large in") and "goes on from there" in message
    rows, whole = rows_of(tmp_path / "out"), contents(tmp_path / "whole")
    assert 20 < len(rows) < 100
    found = contents(tmp_path / "out")
    assert set(found) == {row["file"] for row in rows} | {"manifest.csv", "sample.json"}
    assert all(found[row["file"]] == whole[row["file"]] for row in rows)
    run(models / "noise", tmp_path / "out", "--count", 200)
    assert contents(tmp_path / "out") == whole


def test_a_file_whose_row_does_not_fit_is_taken_back(tmp_path):
    """As on a disk so full that the manifest cannot be written anew either."""
    samples = sample_folder.plan(np.arange(3), None, (), "png", (SIDE, SIDE, 3))
    with sample_folder.SampleFolder(tmp_path / "out", samples, "noise", 2, {"count": 3}) as folder:
        folder.write(*samples.files[0], b"image")
        before = contents(tmp_path / "out")
        with largest_file(len(before["manifest.csv"]) + 5), pytest.raises(OSError, match="File too large"):
            folder.write(*samples.files[1], b"image")
        assert contents(tmp_path / "out") == before
        folder.write(*samples.files[2], b"image")
    assert [row["file"] for row in rows_of(tmp_path / "out")] == ["00000000.png", "00000002.png"]


def test_an_image_that_does_not_fit_is_not_half_there(models, tmp_path, capsys):
    limit = 400  # bytes: sample.json is smaller, an archive larger
    with largest_file(limit):
        run(models / "noise", tmp_path / "out", "--count", 50, "--format", "npz", status=1)
    assert "File too large" in capsys.readouterr().err
    assert set(contents(tmp_path / "out")) == {"manifest.csv", "sample.json"} and not rows_of(tmp_path / "out")


# Interpolation


def test_spherical_interpolation_keeps_its_ends_and_the_length():
    first, second = np.random.default_rng(0).normal(size=(2, 50))
    second *= np.linalg.norm(first) / np.linalg.norm(second)
    way = interpolation.slerp(first, second, np.linspace(0, 1, 9))
    np.testing.assert_allclose(way[[0, -1]], [first, second])
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), np.linalg.norm(first))
    steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0])
    np.testing.assert_allclose(interpolation.slerp([1, 0], [0, 1], [0.5]), [[0.5**0.5, 0.5**0.5]])
    np.testing.assert_allclose(interpolation.slerp([1, 2], [2, 4], [0.5]), [[1.5, 3]])
    np.testing.assert_allclose(interpolation.slerp([0, 0], [2, 4], [0.5]), [[1, 2]])


@pytest.mark.parametrize(("model", "mode"), [("pets", "RGB"), ("glass", "RGBA"), ("grey", "RGB")])
def test_an_interpolation_begins_and_ends_at_the_images_of_its_seeds(models, tmp_path, model, mode):
    run(models / model, tmp_path / "out", "--interpolate", 3, 11, "--frames", 7)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"3-to-11.gif", "3-to-11.webp"}
    ends = frames_of(tmp_path / "out/3-to-11.webp", mode)[[0, -1]]
    assert len(frames_of(tmp_path / "out/3-to-11.gif", mode)) == 7
    labels = [3, 3] if model == "pets" else None  # the class of the first seed
    expected = sample.draw(models / model, [3, 11], labels=labels, progress=False)
    for shown, image in zip(ends[:, ::32, ::32].astype(int), expected.astype(int), strict=True):
        visible = image[..., 3:] > 0 if mode == "RGBA" else True
        assert np.abs((shown - image) * visible).max() <= 1


def test_an_interpolation_overwrites_nothing(models, tmp_path, capsys):
    run(models / "noise", tmp_path / "out", "--interpolate", 1, 2, "--frames", 3)
    with pytest.raises(SystemExit) as stop:
        run(models / "noise", tmp_path / "out", "--interpolate", 1, 2, "--frames", 4)
    assert stop.value.code == 2 and "1-to-2.gif exists" in capsys.readouterr().err
    with largest_file(600):
        run(models / "noise", tmp_path / "full", "--interpolate", 1, 2, "--frames", 4, status=1)
    assert not list((tmp_path / "full").iterdir())


# Failures


def fails(capsys, model, tmp_path, *options):
    """The one line of a run that must fail and leave nothing behind."""
    capsys.readouterr()
    run(model, tmp_path / "failed", "--count", 2, *options, status=1)
    assert not (tmp_path / "failed").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("serving.sample: ")
    return line


def test_a_damaged_savedmodel_is_one_line(models, tmp_path, capsys):
    for name, damage in {
        "graph": lambda path: (path / "saved_model.pb").write_bytes(b"not a protocol buffer"),
        "empty": lambda path: (path / "saved_model.pb").write_bytes(b""),
        "index": lambda path: (path / "variables/variables.index").write_bytes(b"x" * 100),
        "weights": lambda path: os.truncate(path / "variables/variables.data-00000-of-00001", 10),
        "no weights": lambda path: shutil.rmtree(path / "variables"),
    }.items():
        directory = Path(shutil.copytree(models / "noise/1", tmp_path / name / "1"))
        damage(directory)
        assert "cannot be loaded" in fails(capsys, tmp_path / name, tmp_path) or name == "empty"


def test_a_foreign_savedmodel_is_one_line_that_says_what_it_lacks(tmp_path, capsys):
    def only(name, signature="sample"):
        return lambda functions: {signature: functions[name]}

    def giving(**outputs):
        """A `sample` that gives something else."""
        return lambda functions: functions | {"sample": (lambda seed, truncation: outputs["images"](functions["sample"][0](seed, truncation)["images"]), ["seed", "truncation"])}  # fmt: skip

    cases = {
        "classifier": (only("latents", "classify"), "no signature `sample` (it has: classify)"),
        "inputs": (only("serving_default"), "It takes: z"),
        "floats": (giving(images=lambda images: {"images": tf.cast(images, tf.float32)}), "uint8"),
        "flat": (giving(images=lambda images: {"images": images[:, 0]}), "[n, height, width, channels]"),
        "one": (giving(images=lambda images: {"images": images[:1]}), None),
    }
    for name, (mend, expected) in cases.items():
        model = save_model(tmp_path / name, mend=mend, card=False).parent
        if expected:
            assert expected in fails(capsys, model, tmp_path)
        else:
            with pytest.raises(ValueError, match="for 2 seeds"):
                sample.draw(model, [1, 2], progress=False)


def test_a_model_that_makes_nan_is_refused(tmp_path, capsys):
    def diverged(functions):
        generate, inputs = functions["serving_default"]
        return functions | {"serving_default": (lambda z: {"images": generate(z)["images"] * np.nan}, inputs)}

    model = save_model(tmp_path / "diverged", mend=diverged).parent
    assert "NaN" in fails(capsys, model, tmp_path)


def test_a_card_that_contradicts_the_savedmodel_is_refused(models, tmp_path, capsys):
    directory = Path(shutil.copytree(models / "pets/1", tmp_path / "pets/1"))
    card = json.loads((directory / "model.json").read_text())
    (directory / "model.json").write_text(json.dumps(card | {"class_names": []}))
    assert "does not agree with its model.json" in fails(capsys, tmp_path / "pets", tmp_path)


def test_labels_of_draw_are_checked(models):
    with pytest.raises(ValueError, match="unconditional"):
        sample.draw(models / "noise", [1], labels=[0], progress=False)
    for labels in ([9], [-1], [0, 1]):
        with pytest.raises(ValueError, match="from 0 to 8"):
            sample.draw(models / "pets", [1], labels=labels, progress=False)


def test_a_savedmodel_anywhere_will_do(models, tmp_path):
    run(models / "elsewhere", tmp_path / "out", "--count", 1)
    (row,) = rows_of(tmp_path / "out")
    assert (row["model"], row["version"]) == ("elsewhere", "")
    assert saved_model.locate(models / "noise").version == 2 and saved_model.locate(models / "noise/1").version == 1


def test_wrong_options_are_answered_with_2_before_tensorflow_is_imported(models, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "broken/1").mkdir(parents=True)
    (tmp_path / "broken/1/saved_model.pb").write_bytes(b"")
    (tmp_path / "broken/1/model.json").write_text("{")
    noise, pets, count = ["--model", str(models / "noise")], ["--model", str(models / "pets")], ["--count", "2"]
    cases = [
        (["--model", str(models / "nois"), *count], "Did you mean 'noise'?"),
        (["--model", str(models / "noise/7"), *count], "has the versions 1, 2"),
        (["--model", str(models), *count], "No SavedModel"),
        (["--model", str(tmp_path / "broken"), *count], "model.json cannot be read"),
        (noise, "either --count N or --interpolate"),
        ([*noise, *count, "--interpolate", "1", "2"], "either --count N or --interpolate"),
        ([*noise, "--count", "0"], "--count must be at least 1"),
        ([*noise, *count, "--truncation", "1.5"], "--truncation must be from 0 to 1"),
        ([*noise, *count, "--truncation", "nan"], "--truncation must be from 0 to 1"),
        ([*noise, *count, "--seed", str(2**63 - 2)], "--seed must leave room"),
        ([*noise, *count, "--label", "cat"], "is unconditional"),
        ([*noise, *count, "--per-class"], "is unconditional"),
        ([*pets, *count, "--label", "cat", "--per-class"], "exclude each other"),
        ([*pets, *count, "--label", "kat"], "Did you mean 'cat'?"),
        ([*pets, *count, "--frames", "3"], "--frames goes with"),
        ([*pets, "--interpolate", "1", "2", "--frames", "1"], "--frames must be from 2"),
        ([*pets, "--interpolate", "1", "2", "--format", "png"], "--format does not go with"),
        ([*noise, "--interpolate", "1", str(2**63)], "64 bits"),
        (["--model", str(models / "glass"), *count, "--format", "jpeg"], "JPEG has no transparency"),
    ]
    program = (
        "import json, sys\nfrom serving import sample\n"
        "for case in json.loads(sys.argv[1]):\n"
        "    try:\n        sample.main(case)\n    except SystemExit as stop:\n        print(stop.code, file=sys.stderr)\n"
        "print('tensorflow' in sys.modules, file=sys.stderr)"
    )
    arguments = json.dumps([[*case, "--out", str(tmp_path / "out")] for case, _ in cases])
    done = subprocess.run(
        [sys.executable, "-c", program, arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    *lines, imported = done.stderr.splitlines()
    assert imported == "False"
    assert lines[1::2] == ["2"] * len(cases)
    for line, (_, expected) in zip(lines[::2], cases, strict=True):
        assert line.startswith("serving.sample: ") and expected in line
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as stop:
        run(models / "noise", tmp_path / "file", *count)
    assert stop.value.code == 2
