"""The augmentation study: that nothing leaks, that no regime trains longer than another, and what its figures mean."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from evaluation import augmentation, augmentation_plan
from evaluation import augmentation_generators as generators
from evaluation import augmentation_split as splitting
from evaluation import augmentation_statistics as statistics
from evaluation.augmentation_regimes import Pool, Regime, needed, pool, regimes
from evaluation.reals import digests
from serving.saved_model import Export
from training import data

REPOSITORY = Path(__file__).parents[2]
SIDE = 8


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of decoded images of this module's own, so that the user's is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pictures(count, seed, hue=0):
    """Noise with a colour, uint8 `[count, 8, 8, 3]`: the class can be learned from the channel `hue`."""
    images = np.random.default_rng(seed).integers(0, 120, (count, SIDE, SIDE, 3), np.uint8)
    images[..., hue] += 130
    return images


def save(folder, images, suffix="png", first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images, first):
        Image.fromarray(image).save(folder / f"{i:04d}.{suffix}")


def load(folder, **options):
    return data.load(folder, size=SIDE, progress=False, **options)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two classes of 40 and 30 images, of which 20 and 10 have an equal in another file (of another format)."""
    folder = tmp_path_factory.mktemp("labelled")
    for name, hue, count, equal in (("cold", 2, 20, 20), ("warm", 0, 20, 10)):
        images = pictures(count, seed=hue, hue=hue)
        save(folder / name, images)
        save(folder / name, images[:equal], "bmp", first=count)
    return folder


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unseen")
    save(folder / "cold", pictures(12, seed=102, hue=2))
    save(folder / "warm", pictures(12, seed=100, hue=0))
    return folder


# The split


def sides(split):
    return {side: set(digests(getattr(split, side).images)) for side in splitting.SIDES}


@pytest.mark.parametrize("seed", range(5))
def test_equal_images_never_lie_on_two_sides(labelled, seed):
    split = splitting.make(load(labelled), seed=seed)
    found = sides(split)
    assert not found["train"] & found["validation"]
    assert not found["train"] & found["test"]
    assert not found["validation"] & found["test"]
    assert sum(len(getattr(split, side)) for side in splitting.SIDES) == 70
    assert split.found == {"duplicates": 60, "groups": 30, "two_labels": 0, "in_test": 0, "duplicates_in_test": 0}


def test_the_duplicates_of_the_emoji_are_found_and_told():
    split = splitting.make(data.load("emoji", size=32, classes=("Flags", "Activities"), progress=False))
    assert split.found["groups"] >= 3, "some flags are those of the country that governs them"
    assert not sides(split)["train"] & sides(split)["test"]
    assert f"in {split.found['groups']} groups of equal ones" in augmentation_plan.duplicates_text(split.found)


def test_every_class_is_split_in_the_proportions_asked_for(labelled):
    counts = splitting.make(load(labelled), validation_share=0.1, test_share=0.2).counts()
    assert counts == {"train": [28, 21], "validation": [4, 3], "test": [8, 6]}


def test_the_side_of_an_image_follows_from_its_content_and_the_seed_alone(labelled, tmp_path):
    for name in ("cold", "warm"):
        files = sorted((labelled / name).iterdir(), key=lambda path: path.stem[::-1])
        for i, path in enumerate(files):
            (tmp_path / name).mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / name / f"{i:03d}{path.suffix}")
    assert sides(splitting.make(load(tmp_path))) == sides(splitting.make(load(labelled)))
    assert sides(splitting.make(load(tmp_path), seed=1)) != sides(splitting.make(load(labelled)))


def test_images_that_the_test_set_has_are_left_out_of_the_training(labelled, unseen, tmp_path):
    shutil.copytree(unseen, tmp_path / "test")
    save(tmp_path / "test" / "warm", pictures(20, seed=0, hue=0)[15:], "webp.png", first=50)  # in 5 files of `labelled`
    split = splitting.make(load(labelled), load(tmp_path / "test"))
    assert split.found["in_test"] == 5 and len(split.test) == 29
    found = sides(split)
    assert not found["test"] & (found["train"] | found["validation"])
    assert "5 images also in the test set, left out of the training" in augmentation_plan.duplicates_text(split.found)


def test_equal_images_with_several_labels_are_kept_together_and_told(tmp_path):
    same = pictures(6, seed=7)
    for name in ("cold", "warm"):
        save(tmp_path / name, np.concatenate([same, pictures(20, seed=ord(name[0]))]))
    split = splitting.make(load(tmp_path))
    assert split.found["two_labels"] == 6
    assert not sides(split)["train"] & (sides(split)["test"] | sides(split)["validation"])


def test_data_that_cannot_be_split_are_refused_with_the_way_out(labelled, unseen, tmp_path):
    save(tmp_path / "flat", pictures(4, 0))
    with pytest.raises(ValueError, match="no labels. Sort the images into such folders"):
        splitting.make(load(tmp_path / "flat"))
    shutil.copytree(labelled, tmp_path / "beside")
    save(tmp_path / "beside", pictures(4, 0))
    with pytest.raises(ValueError, match="4 images lie beside the class folders"):
        splitting.make(load(tmp_path / "beside"))
    save(tmp_path / "few" / "cold", pictures(3, 0))
    save(tmp_path / "few" / "warm", pictures(30, 1))
    with pytest.raises(
        ValueError, match="The class 'cold' has 3 images, too few for the split.*Add images, leave the class out"
    ):
        splitting.make(load(tmp_path / "few"))
    shutil.copytree(unseen / "cold", tmp_path / "other" / "cold")
    save(tmp_path / "other" / "hot", pictures(3, 0))
    with pytest.raises(ValueError, match=r"only one of them: hot \(--test-data\), warm \(--data\)"):
        splitting.make(load(labelled), load(tmp_path / "other"))


@pytest.fixture(scope="module")
def split(labelled, unseen):
    return splitting.make(load(labelled), load(unseen))


def test_the_train_folder_holds_the_train_side_to_the_last_bit_and_nothing_else_passes(split, tmp_path):
    (tmp_path / ".train.1234.tmp" / "cold").mkdir(parents=True)  # what a killed process leaves
    folder = tmp_path / "train"
    images = splitting.write_train_folder(split, folder)
    assert sorted(digests(images.images)) == sorted(digests(split.train.images))
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    assert splitting.write_train_folder(split, folder).fingerprint == images.fingerprint
    save(folder / "warm", np.asarray(split.validation.images[:1]), first=900)
    with pytest.raises(ValueError, match="does not hold the train images of this split"):
        splitting.write_train_folder(split, folder)


# Leaks


def exported(
    fingerprint, *, conditional=True, class_names=("cold", "warm"), shape=(SIDE, SIDE, 3), directory=None, **record
):
    """An export as `training.fit` describes it, of a model trained on images of a fingerprint."""
    inputs = {"seed": {}, "truncation": {}} | ({"label": {}} if conditional else {})
    card = {
        "image_shape": list(shape),
        "class_names": list(class_names) if conditional else [],
        "signatures": {"sample": {"inputs": inputs}},
        "step": 3,
        "training": {"data_fingerprint": fingerprint, "num_images": 7, "data": "some/folder"}
        | {"class_names": list(class_names)}
        | record,
    }
    return Export("mine", 1, Path(directory or "nowhere"), card)


@pytest.fixture(scope="module")
def train_side(split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "train"
    return splitting.write_train_folder(split, folder), folder


def test_models_of_the_train_side_are_taken(train_side):
    images, folder = train_side
    (first, label), (second, other) = generators.check([exported(images.fingerprint)], *train_side)
    assert first is second and (label, other) == (0, 1)
    turned = exported(images.fingerprint, class_names=("warm", "cold"))
    assert [label for _, label in generators.check([turned], *train_side)] == [1, 0]
    per_class = [
        exported(load(folder, classes=(name,)).fingerprint, conditional=False, class_names=(name,))
        for name in ("warm", "cold")
    ]
    assert generators.check(per_class, *train_side) == [(per_class[1], None), (per_class[0], None)]


def test_a_model_that_saw_anything_but_the_train_side_is_refused(train_side, labelled, split, tmp_path):
    images, folder = train_side
    everything = load(labelled).fingerprint
    shutil.copytree(folder, tmp_path / "more")
    save(tmp_path / "more" / "warm", np.asarray(split.validation.images[:1]), first=900)
    for leak in (everything, load(tmp_path / "more").fingerprint, None):
        with pytest.raises(ValueError, match=f"not on the train side of this split .*training.fit --data {folder}"):
            generators.check([exported(leak)], *train_side)
    whole_class = exported(load(labelled, classes=("warm",)).fingerprint, conditional=False, class_names=("warm",))
    with pytest.raises(ValueError, match="not on the train side"):
        generators.check([whole_class], *train_side)
    with pytest.raises(ValueError, match="started from the weights of runs/old, which may have seen"):
        generators.check([exported(images.fingerprint, init_from="runs/old")], *train_side)


def test_models_that_cannot_make_the_classes_or_the_images_are_refused(train_side):
    images, folder = train_side
    own = images.fingerprint
    with pytest.raises(ValueError, match="knows hot, which the data lack; the data have warm, which it lacks"):
        generators.check([exported(own, class_names=("cold", "hot"))], *train_side)
    with pytest.raises(ValueError, match="without their labels, and cannot be asked for one"):
        generators.check([exported(own, conditional=False)], *train_side)
    with pytest.raises(ValueError, match="makes images of 16x16 pixels and 3 channels.*--size 16"):
        generators.check([exported(own, shape=(16, 16, 3))], *train_side)
    warm = exported(load(folder, classes=("warm",)).fingerprint, conditional=False, class_names=("warm",))
    with pytest.raises(ValueError, match="No model makes cold"):
        generators.check([warm], *train_side)
    with pytest.raises(ValueError, match="both make 'warm'"):
        generators.check([warm, warm], *train_side)


def test_the_generators_get_no_option_that_would_let_other_images_in():
    for words in (("--data", "emoji"), ("--init-from", "runs/other"), ("--test-data", "emoji"), ("--classes", "Flags")):
        with pytest.raises(ValueError, match=f"{words[0]} cannot be given for the generators"):
            generators.resolve(generators.Recipe("sngan", 5, False, words, 0), (32, 32, 3))
    recipe = generators.Recipe("sngan", 5, False, ("--set", "base_filters=4", "--batch-size", "4"), 3)
    settings = generators.resolve(recipe, (16, 16, 3))
    assert settings.conditional and settings.seed == 3 and settings.steps == 5 and settings.batch_size == 4
    assert settings.image_shape == (16, 16, 3) and settings.hyperparameters["base_filters"] == 4


# Regimes


def test_the_regimes_are_those_of_the_study():
    found = {each.name: (each.real, each.ratio, each.classical) for each in regimes((0.5, 1.0, 2.0))}
    assert found == {
        "real": (True, 0, False),
        "classical": (True, 0, True),
        "synthetic-0.5": (True, 0.5, False),
        "synthetic-1": (True, 1, False),
        "synthetic-2": (True, 2, False),
        "classical-synthetic-1": (True, 1, True),
        "synthetic-only-1": (False, 1, False),
    }
    assert [each.ratio for each in regimes((0.2, 0.5))[-2:]] == [0.5, 0.5]
    assert needed(1.25, [4, 100, 1]) == [5, 125, 1] and needed(0.2, [1, 2, 10]) == [1, 1, 2] and needed(0, [5]) == [0]


def test_a_pool_is_the_images_of_its_parts_one_after_another_and_a_larger_ratio_only_adds(split):
    synthetic = [pictures(60, 5), pictures(60, 6)]
    small = pool(Regime("a", "", ratio=0.5), split.train, synthetic)
    real, count = len(split.train), needed(0.5, split.counts()["train"])
    expected = np.concatenate([np.asarray(split.train.images), synthetic[0][: count[0]], synthetic[1][: count[1]]])
    order = np.random.default_rng(0).permutation(len(small))
    np.testing.assert_array_equal(small[order], expected[order])
    np.testing.assert_array_equal(small.labels, [*split.train.labels, *[0] * count[0], *[1] * count[1]])
    large = pool(Regime("b", "", ratio=1.0), split.train, synthetic)
    assert set(digests(small[np.arange(len(small))])) < set(digests(large[np.arange(len(large))]))
    alone = pool(Regime("c", "", real=False, ratio=0.5), split.train, synthetic)
    np.testing.assert_array_equal(alone[np.arange(len(alone))], expected[real:])
    assert len({each.sha256() for each in (small, large, alone)}) == 3


# Training


def test_a_classifier_takes_the_steps_asked_for_and_keeps_its_best_checkpoint(split):
    from evaluation.augmentation_training import Settings, predictor, train

    settings = Settings("cnn", None, 30, 4, 2e-3, ("flip",))
    images = Pool([(split.train.images[:2], split.train.labels[:2])])
    seen = []
    done = train(settings, images, split.validation, 2, False, 0, lambda: seen.append(1))
    assert done.optimizer_steps == len(seen) == settings.steps
    assert done.history[-1]["step"] == settings.steps
    # The weights are those of the best checkpoint, not of the last.
    best = max(done.history, key=lambda each: (each["validation_accuracy"], -each["validation_loss"]))
    assert done.best_step == best["step"]
    accuracy = np.mean(predictor(done.classifier)(split.validation.images).argmax(1) == split.validation.labels)
    assert accuracy == pytest.approx(best["validation_accuracy"], abs=1e-6)


# Figures


def test_accuracies_and_f1_are_those_of_scikit_learn_and_the_interval_that_of_theory():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)
    right = generator.random((1, 400)) < 0.7
    predictions = np.where(right, labels, generator.integers(0, 4, (1, 400)))
    found = statistics.summarize(labels, {"real": predictions}, 4)["real"]
    share = np.mean(predictions == labels)
    assert found["accuracy"]["value"] == pytest.approx(share)
    assert found["macro_f1"]["value"] == pytest.approx(f1_score(labels, predictions[0], average="macro"))
    np.testing.assert_allclose(found["f1"], f1_score(labels, predictions[0], average=None))
    low, high = found["accuracy"]["interval"]
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(share * (1 - share) / 400), rel=0.1)
    np.testing.assert_allclose(np.sum(found["confusion"], axis=1), 1)
    np.testing.assert_allclose(np.diag(found["confusion"]), found["recall"])


def test_differences_are_paired_image_by_image():
    labels = np.repeat([0, 1], 200)
    generator = np.random.default_rng(1)
    base = np.where(generator.random(400) < 0.6, labels, 1 - labels)[None]
    better = base.copy()
    wrong = np.flatnonzero(base[0] != labels)[:20]
    better[0, wrong] = labels[wrong]
    found = statistics.summarize(labels, {"real": base, "same": base, "better": better}, 2)
    assert found["same"]["accuracy"]["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
    difference = found["better"]["accuracy"]["difference"]
    assert difference["value"] == pytest.approx(0.05)
    low, high = difference["interval"]
    # 20 of 400 changed: the spread is that of this share, far less than that of the two accuracies.
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.05 * 0.95 / 400), rel=0.15)
    assert statistics.reading(difference) == "better"


def test_the_spread_of_the_seeds_is_in_the_interval_without_bias():
    labels = np.zeros(50, int)
    values = np.array([0.2, 0.5, 0.8])[:, None] * np.ones(50)
    bootstrap = statistics.Bootstrap(labels, resamples=20_000)
    resampled = bootstrap.means(values, "real")
    assert resampled[0] == pytest.approx(0.5)
    assert np.std(resampled[1:]) == pytest.approx(np.std([0.2, 0.5, 0.8], ddof=1) / np.sqrt(3), rel=0.03)


def test_the_sentences_say_what_the_intervals_say():
    helped, harmed, unclear = (
        {"value": value, "interval": [value - 0.02, value + 0.02]} for value in (0.03, -0.031, 0.004)
    )
    assert statistics.sentence("Adding 125% synthetic", helped, "real images alone") == (
        "Adding 125% synthetic: +3.0 points of accuracy against real images alone (95% interval +1.0 to +5.0): better."
    )
    assert statistics.sentence("X", unclear, "Y").endswith(
        "(95% interval −1.6 to +2.4): not distinguishable from zero."
    )
    assert [statistics.headline(each)[0] for each in (
        {0.5: helped, 1.0: unclear}, {0.5: unclear, 1.0: unclear}, {0.5: harmed, 1.0: unclear}, {0.5: harmed, 1.0: helped}
    )] == ["Yes", "Not that could be seen", "No, they did harm", "It depends on the ratio"]  # fmt: skip
    assert statistics.points(-0.0004) == "0.0"


# The command


@pytest.mark.parametrize(
    "words, message",
    [
        ("--data nowhere --arch sngan", "data 'nowhere' does not exist"),
        ("--data emoji", "Say where the synthetic images come from"),
        ("--data emoji --arch sngann", "sngann"),
        ("--data emoji --arch vae", "--conditional is for .* Use --per-class"),
        ("--data emoji --arch sngan --ratios 0,1", "--ratios must be numbers above 0"),
        ("--data emoji --arch sngan --ratios many", "--ratios must be numbers above 0"),
        ("--data emoji --arch sngan --classical mirror", "--classical takes some of flip"),
        ("--data emoji --arch sngan --seeds 0", "--seeds must be at least 1"),
        ("--data emoji --arch sngan --truncation 2", "--truncation must be from 0 to 1"),
        ("--data emoji --arch sngan --test .5 --validation .5", "leave a tenth to train"),
        ("--data emoji --test-data emoji --test .5 --arch sngan", "--test and --test-data exclude each other"),
        ("--data emoji --arch sngan --conditional --per-class", "exclude each other"),
        ("--data emoji --arch sngan --size 16 --classifier vgg16", "vgg16 takes images of 32 pixels and more"),
        ("--data emoji --arch sngan --weights nowhere.keras", "There is none at 'nowhere.keras'"),
        ("--data emoji --models nowhere", "There is no exported model at 'nowhere'"),
        ("--data emoji --models nowhere --generator-steps 5", "--generator-steps is for training generators"),
        ("--data emoji --arch sngan -- --data elsewhere", "--data cannot be given for the generators"),
    ],
)
def test_a_wrong_option_is_told_with_the_way_out_and_status_2(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        augmentation.main(words.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(message, error), error
    assert len(error.strip().splitlines()) == 1, error


def test_a_wrong_option_is_told_before_tensorflow_is_imported():
    code = (
        "import sys; from evaluation import augmentation\n"
        "try: augmentation.main(['--data', 'emoji', '--arch', 'sngan', '--ratios', '-1'])\n"
        "except SystemExit: print({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_a_ratio_that_needs_more_samples_than_asked_is_told_with_the_numbers(labelled, unseen, capsys):
    words = ["--data", str(labelled), "--test-data", str(unseen), "--size", "16", "--arch", "sngan"]
    assert augmentation.main([*words, "--ratios", ".5,2", "--samples", "30"]) == 1
    error = capsys.readouterr().err
    assert "--ratios 2 needs 72 synthetic images of 'cold', 2 times its 36 real ones" in error
    assert "Give --samples 72, or ratios up to 0.83." in error


def save_generator(directory, card):
    """A conditional SavedModel of a few operations: noise in the colour of the class."""
    import tensorflow as tf

    def sample(seed, truncation, label):
        shape = (SIDE, SIDE, 3)
        pixels = tf.map_fn(
            lambda each: tf.random.stateless_uniform(shape, tf.stack([each, 7]), 0, 120, tf.int32), seed,
            fn_output_signature=tf.TensorSpec(shape, tf.int32),
        )  # fmt: skip
        hue = tf.one_hot(tf.where(label == 0, 2, 0), 3, dtype=tf.int32)[:, None, None] * 130
        return {"images": tf.cast(pixels + hue, tf.uint8)}

    signature = [
        tf.TensorSpec([None], tf.int64, name="seed"),
        tf.TensorSpec([None], tf.float32, name="truncation"),
        tf.TensorSpec([None], tf.int64, name="label"),
    ]
    tf.saved_model.save(
        tf.Module(), str(directory), signatures={"sample": tf.function(sample, input_signature=signature)}
    )
    (directory / "model.json").write_text(json.dumps(card))


def words_of_study(labelled, unseen, model, out):
    return [
        *("--data", str(labelled), "--test-data", str(unseen), "--models", str(model), "--out", str(out)),
        *("--ratios", ".5", "--seeds", "1", "--steps", "5", "--batch-size", "4", "--validation", ".2"),
    ]


@pytest.fixture(scope="module")
def study(labelled, unseen, tmp_path_factory):
    """A whole study of four regimes through the command line, with a generator of the train side."""
    place = tmp_path_factory.mktemp("studies")
    split = splitting.make(load(labelled), load(unseen), validation_share=0.2)
    images = splitting.write_train_folder(split, place / "out" / "train")
    save_generator(place / "mine" / "1", exported(images.fingerprint).card)
    words = words_of_study(labelled, unseen, place / "mine", place / "out")
    assert augmentation.main(words) == 0
    return place / "out", words


def test_every_regime_of_a_study_took_the_same_number_of_optimizer_steps(study):
    out, _ = study
    report = json.loads((out / "study.json").read_text())
    names = ["real", "classical", "synthetic-0.5", "classical-synthetic-0.5", "synthetic-only-0.5"]
    assert [each["name"] for each in report["regimes"]] == names
    assert all(each["optimizer_steps"] == [5] for each in report["regimes"])
    sizes = [(each["images"]["real"], each["images"]["synthetic"]) for each in report["regimes"]]
    real = sum(report["split"]["counts"]["train"])
    synthetic = sum(needed(0.5, report["split"]["counts"]["train"]))
    assert sizes == [(real, 0), (real, 0), (real, synthetic), (real, synthetic), (0, synthetic)]
    assert report["synthetic"]["counts"] == needed(0.5, report["split"]["counts"]["train"])
    assert report["generators"][0]["data_fingerprint"] and set(report["split"]["hashes"]) == set(splitting.SIDES)


def test_the_page_needs_nothing_else_and_says_what_the_json_says(study):
    out, _ = study
    page, report = (out / "study.html").read_text(), json.loads((out / "study.json").read_text())
    images, opened = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img", "source"):
                opened.append(tag)
            if tag in ("img", "source"):
                images.append(dict(attributes))

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Reader().feed(page)
    assert not opened and not re.search(r"https?://|<script|<link", page)
    assert all((each.get("src") or each.get("srcset")).startswith("data:image/png;base64,") for each in images)
    assert all(each.get("alt") for each in images if "src" in each)
    for each in [*report["verdict"]["questions"], *({"sentence": line} for line in report["verdict"]["lines"])]:
        assert each["sentence"].replace("'", "&#x27;") in page
    for text in (
        *report["split"]["hashes"].values(),
        report["synthetic"]["sha256"],
        "python -m evaluation.augmentation",
    ):
        assert text in page


def test_the_classifier_of_each_regime_is_exported(study):
    import tensorflow as tf

    out, _ = study
    for regime in json.loads((out / "study.json").read_text())["regimes"]:
        card = json.loads((out / "saved_models" / regime["name"] / "1" / "model.json").read_text())
        assert card["class_names"] == ["cold", "warm"] and card["regime"] == regime["name"]
    loaded = tf.saved_model.load(out / "saved_models" / "real" / "1")
    assert loaded.signatures["classify"](images=tf.zeros((2, SIDE, SIDE, 3), tf.uint8))["logits"].shape == (2, 2)


def test_a_study_that_lost_a_classifier_trains_that_one_alone_and_finds_the_same(study):
    from evaluation.augmentation_study import Study

    out, words = study
    plan = augmentation_plan.make(augmentation.resolve(augmentation.build_parser().parse_args(words)))
    records = sorted((out / "classifiers").glob("*.json"))
    before = {path: path.read_bytes() for path in records}
    assert len(records) == 5
    records[2].write_text("{cut off")
    times = {path: path.stat().st_mtime_ns for path in records}
    again = Study(plan)
    again.make_synthetic()
    again.train_classifiers()
    assert {path: path.read_bytes() for path in records} == before
    assert [path for path in records if path.stat().st_mtime_ns != times[path]] == [records[2]]


def test_a_study_refuses_a_model_that_saw_its_test_images(study, labelled, unseen, tmp_path, capsys):
    out, _ = study
    shutil.copytree(out.parent / "mine", tmp_path / "leaky")
    card = json.loads((tmp_path / "leaky" / "1" / "model.json").read_text())
    card["training"]["data_fingerprint"] = load(labelled).fingerprint
    (tmp_path / "leaky" / "1" / "model.json").write_text(json.dumps(card))
    assert augmentation.main(words_of_study(labelled, unseen, tmp_path / "leaky", tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert "it may have seen validation or test images" in error and f"--data {tmp_path / 'out' / 'train'}" in error
    assert not (tmp_path / "out" / "classifiers").exists()


def test_two_processes_never_work_in_one_directory_and_what_a_killed_one_left_is_removed(study):
    from evaluation.augmentation_study import Study

    out, words = study
    plan = augmentation_plan.make(augmentation.resolve(augmentation.build_parser().parse_args(words)))
    (out / "synthetic" / ".abc.npy.123.tmp").write_bytes(b"half")
    (out / "classifiers" / ".abc.123.keras").write_bytes(b"half")
    with Study(plan).alone():
        with pytest.raises(ValueError, match="Another process is at work in .* give another --out"):
            with Study(plan).alone():
                pass
    assert not [path for path in out.rglob(".*") if path.is_file()]


# Killed


@contextlib.contextmanager
def running_study(out, log):
    """The command in a process of its own, which does not outlive the test."""
    words = [
        *("--data", "emoji", "--classes", "Flags", "--classes", "Activities", "--classes", "Food & Drink"),
        *("--size", "16", "--arch", "sngan", "--set", "base_filters=4", "--generator-steps", "40", "--out", str(out)),
        *("--ratios", ".5,1", "--seeds", "2", "--steps", "40", "--batch-size", "8"),
        *("--", "--no-jit", "--batch-size", "4", "--checkpoint-every", "10"),
    ]
    command = [sys.executable, "-m", "evaluation.augmentation", *words]
    with open(log, "ab") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=60)


def wait_for(process, root, pattern, count, log):
    deadline = time.monotonic() + 3600
    while len(list(root.glob(pattern))) < count:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, f"no {count} files {pattern} after an hour"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_study_killed_in_the_generator_and_among_the_classifiers_ends_in_the_same_json(tmp_path):
    whole, parts, log = tmp_path / "whole", tmp_path / "parts", tmp_path / "log.txt"
    for pattern, count in (("generators/*/run/checkpoints/*", 2), ("classifiers/*.json", 5)):
        with running_study(parts, log) as process:
            wait_for(process, parts, pattern, count, log)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
        assert not (parts / "study.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (parts / "classifiers").glob("*.json")}
    assert 5 <= len(kept) < 12
    for out in (parts, whole):
        with running_study(out, log) as process:
            assert process.wait(timeout=7200) == 0, log.read_text(errors="replace")[-3000:]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a classifier was trained twice"
    assert (parts / "study.json").read_bytes() == (whole / "study.json").read_bytes()
    assert not [path for path in parts.glob("**/.*") if "generators" not in path.parts]
