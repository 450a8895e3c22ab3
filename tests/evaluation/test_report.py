"""`python -m evaluation.report` end to end, on SavedModels of a few lines and with cheap features."""

import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evaluation import features, judging, page, report
from training import data

SIDE = 16
PROVENANCE = {
    "network",
    "weights_hash",
    "resize",
    "seed",
    "n_real",
    "n_fake",
    "n_test",
    "value",
    "interval",
    "label",
    "how_to_read",
}
VOID = {"meta", "img", "source", "br", "hr", "link", "input"}


def shapes(count, seed):
    """Coloured boxes on coloured grounds, uint8 `[count, 16, 16, 3]`."""
    generator = np.random.default_rng(seed)
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for image in images:
        image[:] = generator.integers(0, 256, 3)
        top, left, height, width = generator.integers(1, 8, 4)
        image[top : top + height, left : left + width] = generator.integers(0, 256, 3)
    return images


def save_folder(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04d}.png")


def save_model(directory, bank, *, noise=0.0, reconstructs=False, sample="sample", float_pixels=False, card=None):
    """A SavedModel whose image of seed s is number s of a bank, with noise."""
    bank = tf.constant(bank)
    module = tf.Module()

    def draw(seed, truncation):
        images = tf.cast(tf.gather(bank, seed % len(bank)), tf.float32)
        if noise:
            images = (1 - noise) * images + noise * tf.random.stateless_uniform(tf.shape(images), [3, 4], 0.0, 255.0)
        return {"images": images / 0.0 if float_pixels else tf.cast(images, tf.uint8)}

    signature = [tf.TensorSpec([None], tf.int64, name="seed"), tf.TensorSpec([None], tf.float32, name="truncation")]
    signatures = {sample: tf.function(draw, input_signature=signature)}
    if reconstructs:
        pixels = tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8, name="images")
        signatures["reconstruct"] = tf.function(lambda images: {"images": 255 - images}, input_signature=[pixels])
    tf.saved_model.save(module, str(directory), signatures=signatures)
    if card is not None:
        (directory / "model.json").write_text(json.dumps(card))


def pixel_features(images, network="efficientnet-lite0", resize="clean", **options):
    """What the tests take for a network: the image at a quarter of its size."""
    images = np.asarray(images).astype(np.float32)
    count, height, width, channels = images.shape
    means = images.reshape(count, height // 4, 4, width // 4, 4, channels).mean(axis=(2, 4)).reshape(count, -1)
    return SimpleNamespace(
        features=means / 255 + 0.01, logits=means[:, :10] / 50, network=network, weights_hash="ab" * 32, resize=resize
    )


@pytest.fixture(scope="module", autouse=True)
def cheap_features():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "extract_features", pixel_features)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with real images, unseen ones, and three models."""
    place = tmp_path_factory.mktemp("place")
    train, fresh = shapes(80, 1), shapes(80, 3)
    save_folder(place / "train", train)
    save_folder(place / "test", shapes(80, 2))
    save_model(place / "models/copies/1", train)
    save_model(place / "models/noise/1", train, noise=1.0)
    card = {"arch": "boxes", "image_shape": [SIDE, SIDE, 3]}
    save_model(place / "models/fresh/1", fresh, noise=0.5, card=card | {"step": 100})
    save_model(place / "models/fresh/2", fresh, reconstructs=True, card=card | {"step": 200})
    (place / "run").mkdir()
    (place / "run/metrics.csv").write_text("step,d_loss,g_loss,time\n50,1.0,2.0,0\n100,1.1,1.9,1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(place / "cache"))
        yield place


def run(place, *arguments, out, test=True):
    unseen = ["--test-data", str(place / "test")] if test else []
    assert report.main([*arguments, "--data", str(place / "train"), *unseen, "--out", str(place / out)]) == 0
    return json.loads((place / out / "report.json").read_text()), (place / out / "report.html").read_text()


@pytest.fixture(scope="module")
def fresh(place):
    return run(
        place, "--model", str(place / "models/fresh"), "--all-versions", "--run-dir", str(place / "run"), out="fresh"
    )


@pytest.fixture(scope="module")
def copies(place):
    return run(place, "--model", str(place / "models/copies/1"), out="copies")


@pytest.fixture(scope="module")
def noise(place):
    return run(place, "--model", str(place / "models/noise"), out="noise", test=False)


class Checker(HTMLParser):
    """Notes what is wrong with a page: unbalanced tags, pictures without a text, addresses other than data URIs."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.levels, self.images, self.text = [], [], [], 0, []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.levels.append(int(tag[1]))
        if tag == "img":
            self.images += 1
            if not attributes.get("alt"):
                self.wrong.append("img without alt")
        for key in ("src", "srcset", "href"):
            if key in attributes and not attributes[key].startswith(("data:image/png;base64,", "#")):
                self.wrong.append(f"{key}={attributes[key][:60]}")
        if tag in ("script", "iframe", "link"):
            self.wrong.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, text):
        self.text.append(text)


def checked(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.wrong == [] and checker.open == []
    assert checker.levels[0] == 1 and checker.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(checker.levels, checker.levels[1:]))
    return checker


def numbers_of(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in numbers_of(each)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize("which", ["fresh", "copies", "noise"])
def test_the_page_is_whole_and_needs_nothing_from_elsewhere(which, request):
    record, html = request.getfixturevalue(which)
    checker = checked(html)
    assert checker.images > 10
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html
    assert "http://" not in html and "https://" not in html and "url(" not in html
    text = " ".join(checker.text)
    for answer in record["verdict"].values():
        assert answer["sentence"] in text


@pytest.mark.parametrize("which", ["fresh", "copies", "noise"])
def test_every_figure_is_finite_and_says_what_it_was_made_with(which, request):
    record, html = request.getfixturevalue(which)
    assert all(math.isfinite(number) for number in numbers_of(record))
    assert {"kid", "frechet", "precision", "recall", "density", "coverage", "aa_train", "authenticity"} <= set(
        record["metrics"]
    )
    for figure in record["metrics"].values():
        assert PROVENANCE <= set(figure)
        assert figure["how_to_read"] in html.replace("&#x27;", "'")
    assert "floor" in record["metrics"]["frechet"] and "floor" in record["metrics"]["kid"]
    assert record["metrics"]["coverage"]["null"] == pytest.approx(0.97, abs=0.02)
    assert record["thresholds"] and record["command"].startswith("python -m evaluation.report")


def test_copies_of_the_training_images_are_called_copies(copies):
    record, _ = copies
    assert record["metrics"]["aa_train"]["value"] == 0
    assert record["metrics"]["exact_copies"]["value"] == 1
    assert record["metrics"]["authenticity"]["value"] == 0
    assert record["metrics"]["privacy_loss"]["value"] == pytest.approx(0.5, abs=0.15)
    assert record["verdict"]["copies"]["answer"] == "yes"
    assert record["verdict"]["distinguishable"]["answer"] == "no"
    assert record["verdict"]["covers"]["answer"] == "yes"


def test_noise_is_distinguishable_and_no_copy(noise):
    record, _ = noise
    assert record["verdict"]["distinguishable"]["answer"] == "yes"
    assert record["verdict"]["copies"]["answer"] == "no sign"
    assert record["verdict"]["covers"]["answer"] == "no"


def test_without_unseen_images_privacy_loss_is_missing_and_the_page_says_why(noise):
    record, html = noise
    assert "privacy_loss" not in record["metrics"] and "aa_test" not in record["metrics"]
    assert any("--test-data" in note for note in record["notes"])
    assert "Privacy loss and adversarial accuracy on test could not be computed" in html


def test_fresh_images_of_the_same_kind_are_neither_distinguishable_nor_copies(fresh):
    record, _ = fresh
    answers = {name: answer["answer"] for name, answer in record["verdict"].items()}
    assert answers == {"distinguishable": "no", "copies": "no sign", "covers": "yes"}


def test_all_versions_are_measured_and_the_best_is_named(fresh):
    record, html = fresh
    assert [(version["version"], version["step"]) for version in record["versions"]] == [(1, 100), (2, 200)]
    assert record["best_version"] == 2 and record["version"] == 2
    assert record["versions"][1]["metrics"]["kid"] == record["metrics"]["kid"]
    assert "The best KID is that of version 2" in html
    assert "KID over the exported versions" in html
    assert "Version 1, step 100" in html and "Version 2, step 200" in html


def test_reconstructions_and_losses_are_shown_where_there_are_any(fresh, copies):
    assert "Reconstructions" in fresh[1] and "Training losses" in fresh[1]
    assert "Reconstructions" not in copies[1] and "Training losses" not in copies[1]


def test_a_folder_of_images_of_any_origin_is_judged(place):
    save_folder(place / "folder", shapes(60, 3))
    record, html = run(place, "--images", str(place / "folder"), "--seed", "1", out="folder-report")
    checked(html)
    assert record["kind"] == "images" and record["metrics"]["kid"]["n_fake"] == 60
    assert record["verdict"]["distinguishable"]["answer"] == "no"


def test_real_against_real_is_the_floor_alone(place):
    record, html = run(place, "--real-vs-real", "--size", "16", out="floor", test=False)
    checked(html)
    assert "verdict" not in record
    assert record["metrics"]["kid"]["n_real"] == record["metrics"]["kid"]["n_fake"] == 40
    assert record["metrics"]["exact_copies"]["value"] == 0
    low, high = record["metrics"]["aa_train"]["interval"]
    assert low < 0.5 < high


def test_count_limits_the_images_used_and_the_page_says_so(place):
    record, _ = run(place, "--model", str(place / "models/copies/1"), "--count", "30", out="counted")
    figure = record["metrics"]["kid"]
    assert (figure["n_real"], figure["n_fake"], figure["n_test"]) == (30, 30, 30)
    assert any("30 of 80 training images" in note for note in record["notes"])
    assert record["metrics"]["exact_copies"]["value"] == 1  # looked for among all 80


def test_images_put_aside_by_the_training_serve_as_unseen_ones(place, tmp_path):
    train = shapes(80, 1)
    save_model(tmp_path / "held/1", shapes(80, 3))
    (tmp_path / "held/1/assets.extra").mkdir()
    np.savez_compressed(tmp_path / "held/1/assets.extra/reals.npz", images=train[:20], credit=np.array(""))
    record, _ = run(place, "--model", str(tmp_path / "held"), out="held", test=False)
    assert (record["metrics"]["privacy_loss"]["n_real"], record["metrics"]["privacy_loss"]["n_test"]) == (60, 20)
    assert any("20 images" in note and "put aside" in note for note in record["notes"])


def test_unseen_images_that_are_training_images_are_left_out(place, tmp_path):
    save_folder(tmp_path / "leaky", np.concatenate([shapes(10, 1), shapes(30, 5)]))
    arguments = ["--data", str(place / "train"), "--test-data", str(tmp_path / "leaky"), "--out", str(tmp_path / "out")]
    assert report.main(["--model", str(place / "models/fresh/2"), *arguments]) == 0
    record = json.loads((tmp_path / "out/report.json").read_text())
    assert record["data"]["test"]["total"] == 30
    assert any("10 of the 40 unseen images equal a training image" in note for note in record["notes"])


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(place, copies):
    model = str(place / "models/copies/1")
    again, _ = run(place, "--model", model, out="again")
    other, _ = run(place, "--model", model, "--seed", "7", out="other")
    assert again["metrics"] == copies[0]["metrics"]
    assert other["metrics"]["kid"]["interval"] != again["metrics"]["kid"]["interval"]


def test_the_floor_has_as_many_images_a_side_as_were_compared_where_the_data_allow(place):
    record, _ = run(place, "--model", str(place / "models/fresh/2"), "--count", "40", out="floored")
    assert record["metrics"]["frechet"]["floor"]["n"] == 40 and "value_at_floor_n" not in record["metrics"]["frechet"]
    record, _ = run(place, "--model", str(place / "models/fresh/2"), "--count", "60", out="floored")
    assert record["metrics"]["frechet"]["floor"]["n"] == 40 and "value_at_floor_n" in record["metrics"]["frechet"]


def test_a_split_is_believed_only_where_the_record_of_the_model_names_it(place, tmp_path):
    whole = data.load(place / "train", size=SIDE, progress=False)
    train, held_out = whole.split(0.2, seed=0)
    for name, fingerprint in (("split", train.fingerprint), ("whole", whole.fingerprint), ("other", "0" * 64)):
        card = {"image_shape": [SIDE, SIDE, 3], "training": {"data_fingerprint": fingerprint}}
        save_model(tmp_path / name / "1", shapes(20, 3), card=card)
        record, _ = run(place, "--model", str(tmp_path / name), out=f"record-{name}", test=False)
        doubted = any("names other training images" in note for note in record["notes"])
        assert doubted == (name == "other")
        if name == "split":
            assert (record["metrics"]["kid"]["n_real"], record["metrics"]["kid"]["n_test"]) == (
                len(train),
                len(held_out),
            )
        else:
            assert record["data"]["test"] is None


def test_fewer_dimensions_keep_the_distances_and_equal_rows_equal():
    generator = np.random.default_rng(0)
    first, second = (
        generator.normal(size=(6, 500)).astype(np.float32),
        generator.normal(size=(4, 500)).astype(np.float32),
    )
    second[1] = first[2]
    one, none, two = judging.same_distances([first, None, second], block=64)
    assert none is None and one.shape == (6, 10) and two.shape == (4, 10)
    assert (two[1] == one[2]).all()
    expected = np.linalg.norm(first[:, None].astype(np.float64) - second[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(one[:, None] - two[None], axis=-1), expected, atol=1e-6)


# Failures


def fails(place, capsys, *arguments, out="failed"):
    """The message of a run that must fail, and leave nothing behind."""
    status = report.main(["--data", str(place / "train"), *arguments, "--out", str(place / out)])
    assert status == 1
    assert not (place / out).exists()
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evaluation.report:")]
    assert len(message) == 1
    return message[0]


def test_a_savedmodel_without_sample_is_named_with_what_it_has(place, tmp_path, capsys):
    save_model(tmp_path / "other/1", shapes(4, 1), sample="serving_default")
    message = fails(place, capsys, "--model", str(tmp_path / "other"))
    assert "no signature `sample`" in message and "serving_default" in message


def test_a_damaged_savedmodel_is_a_clear_error(place, tmp_path, capsys):
    (tmp_path / "damaged/1").mkdir(parents=True)
    (tmp_path / "damaged/1/saved_model.pb").write_bytes(b"not a protocol buffer")
    assert "cannot be loaded" in fails(place, capsys, "--model", str(tmp_path / "damaged"))


def test_nan_pixels_are_a_clear_error(place, tmp_path, capsys):
    save_model(tmp_path / "nan/1", shapes(4, 1) * 0, float_pixels=True)
    assert "NaN" in fails(place, capsys, "--model", str(tmp_path / "nan"))


def test_nothing_is_left_behind_and_an_older_report_stays_when_drawing_or_writing_fails(
    place, copies, monkeypatch, capsys
):
    before = {path.name: path.read_bytes() for path in (place / "copies").iterdir()}
    arguments = ["--model", str(place / "models/copies/1"), "--data", str(place / "train")]

    def broken(*arguments):
        raise ValueError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(page, "render", broken)
        assert report.main([*arguments, "--out", str(place / "copies")]) == 1

    write_bytes = Path.write_bytes

    def full(path, content):
        if "json" in path.name:
            write_bytes(path, content[:10])
            raise OSError("No space left on device")
        return write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert report.main([*arguments, "--out", str(place / "copies")]) == 1
        assert report.main([*arguments, "--out", str(place / "deep/er")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (place / "copies").iterdir()} == before
    assert not (place / "deep").exists()


def test_wrong_options_are_answered_with_2_before_tensorflow_is_imported(place, tmp_path):
    save_folder(tmp_path / "mixed", shapes(3, 1))
    Image.new("RGB", (20, 16)).save(tmp_path / "mixed/odd.png")
    (tmp_path / "empty").mkdir()
    model, reals = ["--model", str(place / "models/fresh")], ["--data", str(place / "train")]
    cases = [
        (reals, "Say what to judge"),
        (model, "--data is needed"),
        ([*model, "--images", str(place / "train"), *reals], "exclude each other"),
        ([*model, *reals, "--features", "efficientnet"], "Did you mean 'efficientnet-lite0'?"),
        (["--model", str(place / "models/frehs"), *reals], "Did you mean"),
        (["--model", str(place / "train"), *reals], "No SavedModel"),
        (["--images", str(tmp_path / "empty"), *reals], "holds no image"),
        (["--images", str(tmp_path / "mixed"), *reals], "odd.png (20x16)"),
        ([*model, "--data", str(tmp_path / "nowhere")], "does not exist"),
        ([*model, *reals, "--count", "1"], "--count must be at least 2"),
        ([*model, *reals, "--weights", "nowhere.pth"], "--weights must be a file"),
        ([*model, *reals, "--run-dir", str(tmp_path)], "metrics.csv"),
        ([*model, *reals, "--size", "32"], "--size goes with"),
    ]
    program = (
        "import json, sys\nfrom evaluation import report\n"
        "for case in json.loads(sys.argv[1]):\n"
        "    try:\n        report.main(case)\n    except SystemExit as stop:\n        print(stop.code, file=sys.stderr)\n"
        "print('tensorflow' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([case for case, _ in cases])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    *lines, imported = done.stderr.splitlines()
    assert imported == "False"
    assert lines[1::2] == ["2"] * len(cases)
    for line, (_, expected) in zip(lines[::2], cases, strict=True):
        assert line.startswith("evaluation.report: ") and expected in line
