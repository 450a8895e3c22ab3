"""Maps of classifiers that were trained on a planted clue, or made by hand, and the command that draws them."""

import gc
import io
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from evaluation import attention, gradcam

REPOSITORY = Path(__file__).parents[2]
SIDE, PATCH = 24, 7
AREA = PATCH**2 / SIDE**2
CLASS_NAMES = ("flat", "upright")


def planted(count, seed):
    """Noise, uint8 `[count, 24, 24, 1]`, whose upper left corner has level (0) or upright (1) stripes as strong as it."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 2, (count, SIDE, SIDE, 1), np.uint8) * 255
    labels = generator.integers(0, 2, count)
    stripes = ((np.arange(PATCH) + generator.integers(0, 2, (count, 1))) % 2 * 255).astype(np.uint8)
    level, upright = np.repeat(stripes[:, :, None], PATCH, 2), np.repeat(stripes[:, None, :], PATCH, 1)
    images[:, :PATCH, :PATCH, 0] = np.where(labels[:, None, None] == 0, level, upright)
    return images, labels


@pytest.fixture(scope="module")
def classifier():
    """A small CNN that has found the stripes; it takes uint8."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    features = layers.Rescaling(1 / 127.5, -1)(pixels)
    features = layers.Conv2D(12, 3, activation="relu")(features)
    features = layers.Conv2D(24, 4, strides=2, activation="relu", name="last")(features)
    model = keras.Model(pixels, layers.Dense(2)(layers.GlobalMaxPooling2D()(features)))
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*planted(256, 0), batch_size=32, epochs=8, verbose=0)
    return model


@pytest.fixture(scope="module")
def unseen():
    return planted(24, 1)


def mass_in_corner(maps):
    return float((maps[:, :PATCH, :PATCH].sum(axis=(1, 2)) / maps.sum(axis=(1, 2))).mean())


@pytest.mark.parametrize(
    ("method", "times"), [("gradcam", 5), ("gradcam++", 3.5), ("scorecam", 2.5), ("saliency", 2.2)]
)
def test_maps_point_at_the_planted_corner_and_at_chance_with_random_weights(classifier, unseen, method, times):
    images, labels = unseen
    assert (gradcam.predict(classifier, images)[0] == labels).mean() > 0.9
    maps = gradcam.heatmaps(classifier, images, labels, method)
    assert maps.shape == (24, SIDE, SIDE) and maps.dtype == np.float32
    assert maps.min() >= 0 and (maps.max(axis=(1, 2)) == 1).all()
    assert mass_in_corner(maps) > times * AREA
    random = [gradcam.heatmaps(gradcam.randomized(classifier, seed), images, labels, method) for seed in range(4)]
    random = [each[each.max(axis=(1, 2)) > 0] for each in random]
    assert np.mean([mass_in_corner(each) for each in random]) < 1.4 * AREA


def by_hand(softmax=False):
    """Two 3x3 convolutions, the second linear, averaged, and a dense layer; also what Grad-CAM then is by its formula."""
    pixels = keras.Input((6, 6, 3))
    features = layers.Conv2D(4, 3, padding="same", activation="relu")(layers.Rescaling(1 / 255)(pixels))
    features = layers.Conv2D(5, 3, padding="same", name="second")(features)
    dense = layers.Dense(3, activation="softmax" if softmax else None)
    model = keras.Model(pixels, dense(layers.GlobalAveragePooling2D()(features)))
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=each.shape) for each in model.get_weights()])

    def formula(images, targets):
        activations = keras.Model(model.inputs, features).predict(images.astype(np.float32), verbose=0)
        kernel = dense.get_weights()[0] / 36  # the gradient of the mean over 6 x 6 positions
        maps = np.maximum(np.einsum("nhwk,kn->nhw", activations, kernel[:, targets]), 0)
        most = maps.max(axis=(1, 2), keepdims=True)
        return np.divide(maps, most, out=np.zeros_like(maps), where=most > 0)

    return model, formula


@pytest.fixture(scope="module")
def few():
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (7, 6, 6, 3), np.uint8), generator.integers(0, 3, 7)


@pytest.mark.parametrize("softmax", [False, True])
def test_gradcam_is_its_formula_on_logits(few, softmax, monkeypatch):
    model, formula = by_hand(softmax=softmax)
    expected = formula(*few)
    np.testing.assert_allclose(gradcam.heatmaps(model, *few), expected, atol=1e-5)
    monkeypatch.setattr(attention, "BATCH_SIZE", 3)
    np.testing.assert_allclose(gradcam.heatmaps(model, *few), expected, atol=1e-5)
    said, sure = gradcam.predict(model, few[0])
    outputs = model.predict(few[0].astype(np.float32), verbose=0)
    shares = outputs if softmax else keras.ops.softmax(outputs).numpy()
    assert (said == outputs.argmax(axis=1)).all()
    np.testing.assert_allclose(sure, shares.max(axis=1), rtol=1e-4)


@pytest.mark.parametrize("form", ["sequential", "nested", "nested twice", "uint8"])
@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_maps_do_not_depend_on_the_form_of_the_model(few, form, method):
    model, _ = by_hand()
    rescaling, first, second, pooling, dense = model.layers[1:]
    kind = "uint8" if form == "uint8" else "float32"
    pixels, inner = keras.Input((6, 6, 3), dtype=kind), keras.Input((6, 6, 3))
    if form == "sequential":
        other = keras.Sequential([keras.Input((6, 6, 3)), *model.layers[1:]])
    elif form == "nested":
        backbone = keras.Model(inner, second(first(inner)), name="second")  # named like one of its layers
        other = keras.Model(pixels, dense(pooling(backbone(rescaling(pixels), training=False))))
    elif form == "nested twice":
        backbone = keras.Sequential([first, keras.Sequential([second])])
        other = keras.Sequential([keras.Input((6, 6, 3)), rescaling, backbone, pooling, dense])
    else:
        other = keras.Model(pixels, dense(pooling(second(first(rescaling(pixels))))))
    np.testing.assert_allclose(gradcam.heatmaps(other, *few, method), gradcam.heatmaps(model, *few, method), atol=1e-5)


def test_large_logits_do_not_overflow(few):
    model, _ = by_hand()
    before = {method: gradcam.heatmaps(model, *few, method) for method in attention.METHODS}
    dense = model.layers[-1]
    dense.set_weights([dense.get_weights()[0], dense.get_weights()[1] + 200])  # exp(89) is too much for float32
    for method, maps in before.items():
        assert maps.max() == 1
        np.testing.assert_allclose(gradcam.heatmaps(model, *few, method), maps, atol=1e-4)


def test_scorecam_in_small_parts_is_the_same(few, monkeypatch):
    model, _ = by_hand()
    whole = gradcam.heatmaps(model, *few, "scorecam")
    monkeypatch.setattr(attention, "SCORECAM_BYTES", 1)
    np.testing.assert_allclose(gradcam.heatmaps(model, *few, "scorecam"), whole, atol=1e-5)


def test_maps_follow_the_weights_and_leave_the_classifier_as_it_was(few):
    model, formula = by_hand(softmax=True)
    for scale in (1.0, -1.0):
        model.set_weights([each * scale for each in model.get_weights()])
        before = model.get_weights()
        np.testing.assert_allclose(gradcam.heatmaps(model, *few), formula(*few), atol=1e-5)
        gradcam.randomized(model, 0)
        assert all((one == other).all() for one, other in zip(before, model.get_weights(), strict=True))
    assert model.layers[-1].activation is keras.activations.softmax


def test_what_is_kept_of_a_classifier_goes_with_it(few):
    model, _ = by_hand()
    gradcam.heatmaps(model, *few)
    known = len(attention._functional_copies)
    del model
    gc.collect()
    assert len(attention._functional_copies) < known


def test_random_weights_are_those_of_the_seed_and_have_the_scale_of_new_ones(classifier):
    first, again, other = (gradcam.randomized(classifier, seed).get_weights() for seed in (3, 3, 4))
    for one, same, another in zip(first, again, other, strict=True):
        assert (one == same).all()
        assert (one != another).any() if one.ndim > 1 else not one.any()
    assert np.std(first[2]) == pytest.approx(np.sqrt(2 / (4 * 4 * 12)), rel=0.1)  # He: sqrt(2 / fan-in)


def test_normalization_of_the_data_is_not_randomized_and_batch_normalization_is():
    pixels = keras.Input((6, 6, 1))
    features = layers.Normalization(mean=[3.0], variance=[4.0])(pixels)
    features = layers.BatchNormalization()(layers.Conv2D(2, 3)(features))
    model = keras.Model(pixels, layers.Dense(2)(layers.GlobalAveragePooling2D()(features)))
    normalization = model.layers[3]
    normalization.set_weights([np.full(2, value, np.float32) for value in (5, 6, 7, 8)])
    copy = gradcam.randomized(model, 0)
    assert [each.tolist() for each in copy.layers[3].get_weights()] == [[1, 1], [0, 0], [0, 0], [1, 1]]
    images = np.zeros((1, 6, 6, 1), np.float32)
    expected = keras.ops.convert_to_numpy(model.layers[1](images))
    assert (keras.ops.convert_to_numpy(copy.layers[1](images)) == expected).all() and expected[0, 0, 0, 0] == -1.5


def test_the_layer_is_the_last_convolution_with_positions_or_the_one_that_is_named(few):
    pixels = keras.Input((6, 6, 3))
    features = layers.Conv2D(4, 3, name="wanted")(pixels)
    features = layers.GlobalAveragePooling2D(keepdims=True)(layers.ReLU(name="relu")(features))
    logits = layers.Flatten()(layers.Conv2D(3, 1, name="head")(features))  # as in MobileNetV3: one position
    model = keras.Model(pixels, logits)
    assert attention.find_layer(attention.functional(model)).name == "wanted"
    by_name = gradcam.heatmaps(model, *few, layer="relu")
    assert by_name.shape == (7, 6, 6) and not np.allclose(by_name, gradcam.heatmaps(model, *few))
    for name in ("head", "wantd"):
        with pytest.raises(ValueError, match="Those with positions: wanted, relu"):
            gradcam.heatmaps(model, *few, layer=name)
    flat = keras.Sequential([keras.Input((6, 6, 3)), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(ValueError, match="no convolution"):
        gradcam.heatmaps(flat, *few)
    assert gradcam.heatmaps(flat, *few, "saliency").max() == 1


def test_what_cannot_be_explained_is_refused(few):
    images, targets = few
    model, _ = by_hand()
    with pytest.raises(ValueError, match="Unknown method 'cam'"):
        gradcam.heatmaps(model, images, targets, "cam")
    with pytest.raises(ValueError, match=r"uint8 \[n, 6, 6, 3\]"):
        gradcam.heatmaps(model, images / 255, targets)
    with pytest.raises(ValueError, match=r"Received: uint8 \[7, 5, 6, 3\]"):
        gradcam.heatmaps(model, images[:, 1:], targets)
    for wrong in (targets[:3], targets + 3):
        with pytest.raises(ValueError, match="7 classes from 0 to 2"):
            gradcam.heatmaps(model, images, wrong)
    one = keras.Sequential([keras.Input((6, 6, 3)), layers.Flatten(), layers.Dense(1)])
    with pytest.raises(ValueError, match="at least 2"):
        gradcam.heatmaps(one, images, targets * 0, "saliency")

    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="functional or Sequential"):
        gradcam.heatmaps(Subclassed(), images, targets)
    assert gradcam.heatmaps(model, images[:0], targets[:0]).shape == (0, 6, 6)


def test_the_share_of_attention_is_that_above_half_the_maximum():
    maps = np.array([[[1, 0.5], [0.51, 0]], [[0.2, 0.2], [0.2, 0.2]], [[0, 0], [0, 0]], [[0, 0], [0.4, 0.1]]])
    share = gradcam.attention_share(maps)
    assert share.tolist() == [0.5, 1, 0, 0.25] and share.dtype == np.float64


def test_the_rank_correlation_is_spearmans():
    rising = np.arange(4.0).reshape(1, 2, 2)
    maps = np.concatenate([rising, rising, rising, np.array([[[1.0, 2], [2, 4]]])])
    others = np.concatenate([rising**3, -rising, rising * 0, np.array([[[0.0, 3], [1, 3]]])])
    # The last by hand: ranks 1, 2.5, 2.5, 4 and 1, 3.5, 2, 3.5.
    np.testing.assert_allclose(gradcam.rank_correlation(maps, others), [1, -1, 0, 3.75 / np.sqrt(4.5 * 4.5)])


@pytest.mark.parametrize("channels", [1, 4])
def test_the_figure_puts_classifiers_side_by_side(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, channels), np.uint8)
    maps = {name: np.random.default_rng(1).random((5, 8, 8)) for name in ("real", "real + synthetic")}
    said = {name: np.arange(5) % 2 for name in maps}
    drawn = gradcam.figure(images, maps, said, labels=np.zeros(5, int), class_names=CLASS_NAMES, captions=["real"] * 5)
    light, dark = (Image.open(io.BytesIO(drawn[theme])) for theme in ("light", "dark"))
    assert light.size == dark.size and light.size[0] > light.size[1]  # two images a row, of three cells each
    assert light.convert("L").getpixel((2, 2)) > 200 > 60 > dark.convert("L").getpixel((2, 2))
    alone = gradcam.figure(images[:1], {"one": maps["real"][:1]}, {"one": said["real"][:1]})
    assert Image.open(io.BytesIO(alone["light"])).size[0] < light.size[0]


def test_the_overlay_colours_what_counts_and_leaves_the_rest_grey():
    maps = np.zeros((1, 4, 4))
    maps[0, 0, 0] = 1
    image = gradcam.overlay(np.full((1, 4, 4, 3), 128, np.uint8), maps)[0].astype(int)
    assert np.ptp(image[0, 0]) > 60 and np.ptp(image[3, 3]) < 20


# The command


@pytest.fixture(scope="module")
def place(tmp_path_factory, classifier, unseen):
    """A directory with an exported classifier, its bare file, and folders of images."""
    place = tmp_path_factory.mktemp("place")
    export = place / "models/stripes/2"
    (export / "assets.extra").mkdir(parents=True)
    (export / "saved_model.pb").write_bytes(b"not read")
    classifier.save(export / "assets.extra/classifier.keras")
    classifier.save(place / "bare.keras")
    card = {"class_names": ["upright", "flat"][::-1], "image_shape": [SIDE, SIDE, 1]}
    (export / "model.json").write_text(json.dumps(card))
    (place / "models/generator/1").mkdir(parents=True)
    (place / "models/generator/1/saved_model.pb").write_bytes(b"")
    for i, (image, label) in enumerate(zip(*unseen, strict=True)):
        for folder in ("labelled/" + CLASS_NAMES[label], "strange/" + "ab"[label], "loose"):
            (place / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(place / folder / f"{i:02d}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(place / "cache"))
        yield place


def run(place, *arguments, model="models/stripes", images="labelled", out="out", status=0):
    paths = ["--model", str(place / model), "--images", str(place / images), "--out", str(place / out)]
    assert gradcam.main([*paths, *arguments]) == status
    return place / out


def test_an_exported_classifier_and_a_folder_give_a_page_a_figure_and_the_maps(place, classifier, unseen):
    out = run(place, "--sanity", "--count", "20")
    assert {path.name for path in out.iterdir()} == {"gradcam.html", "gradcam.png", "maps.npz"}
    Image.open(out / "gradcam.png").load()
    text = (out / "gradcam.html").read_text()
    assert "data:image/png;base64," in text and "://" not in text and "layer last" in text and "random weights" in text
    with np.load(out / "maps.npz", allow_pickle=False) as archive:
        found = dict(archive)
    files = found["files"].tolist()
    assert len(files) == len(set(files)) == 20
    images = np.stack([unseen[0][int(name[-6:-4])] for name in files])
    assert found["labels"].tolist() == [CLASS_NAMES.index(name.split("/")[0]) for name in files]
    said, sure = gradcam.predict(classifier, images)
    assert (found["predictions"] == said).all() and (found["targets"] == said).all()
    np.testing.assert_allclose(found["confidences"], sure, rtol=1e-5)
    np.testing.assert_allclose(found["maps"], gradcam.heatmaps(classifier, images, said), atol=1e-5)
    assert found["class_names"].tolist() == list(CLASS_NAMES) and found["layer"] == "last"
    before = (out / "maps.npz").read_bytes()
    with pytest.raises(SystemExit) as stop:
        run(place, "--method", "saliency")
    assert stop.value.code == 2 and (out / "maps.npz").read_bytes() == before


def test_a_bare_file_numbers_the_folders_in_order_and_does_without_labels(place, capsys):
    options = ["--method", "saliency", "--count", "4"]
    out = run(place, *options, "--target", "flat", model="bare.keras", out="bare")
    with np.load(out / "maps.npz", allow_pickle=False) as archive:
        assert archive["class_names"].tolist() == list(CLASS_NAMES) and archive["targets"].tolist() == [0] * 4
        assert archive["layer"] == ""
    out = run(place, *options, model="bare.keras", images="loose", out="loose-out")
    with np.load(out / "maps.npz", allow_pickle=False) as archive:
        assert "labels" not in archive and archive["class_names"].size == 0


def test_failures_are_one_line_and_leave_nothing(place, tmp_path, capsys):
    (tmp_path / "damaged.keras").write_bytes(b"no archive")
    for options, expected in [
        ({"images": "strange"}, "no class 'a', 'b'. Its classes: flat, upright"),
        ({"images": "loose", "arguments": ["--target", "true"]}, "--target true needs labels"),
        ({"model": "bare.keras", "images": "loose", "arguments": ["--target", "x"]}, "have no names"),
        ({"arguments": ["--layer", "lost"]}, "Did you mean 'last'?"),
        ({"model": tmp_path / "damaged.keras"}, "damaged.keras cannot be loaded"),
    ]:
        capsys.readouterr()
        run(place, *options.pop("arguments", []), **options, out="failed", status=1)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evaluation.gradcam:")]
        assert len(lines) == 1 and expected in lines[0]
        assert not (place / "failed").exists()


def test_code_in_a_classifier_file_is_not_run(place, tmp_path, capsys):
    pixels = keras.Input((SIDE, SIDE, 1))
    double = keras.layers.Lambda(lambda x: x * 2, output_shape=(SIDE, SIDE, 1))
    model = keras.Model(pixels, layers.Dense(2)(layers.Flatten()(double(pixels))))
    model.save(tmp_path / "code.keras")
    run(place, model=tmp_path / "code.keras", out="failed", status=1)
    assert "code.keras cannot be loaded" in capsys.readouterr().err


def test_wrong_options_are_answered_with_2_before_tensorflow_is_imported(place, tmp_path):
    model, images = ["--model", str(place / "models/stripes")], ["--images", str(place / "labelled")]
    (tmp_path / "weights.h5").write_bytes(b"")
    cases = [
        (["--model", str(place / "models/stipes"), *images], "Did you mean"),
        (["--model", str(place / "models/generator"), *images], "classifier.keras"),
        (["--model", str(tmp_path / "weights.h5"), *images], "must be a .keras file"),
        ([*model, "--images", str(place / "nowhere")], "does not exist"),
        ([*model, *images, "--target", "flt"], "Did you mean 'flat'?"),
        ([*model, *images, "--count", "0"], "--count must be at least 1"),
        ([*model, *images, "--method", "saliency", "--layer", "last"], "--layer does not go with"),
        ([*model, *images, "--out", str(tmp_path / "weights.h5")], "--out must be a directory"),
    ]
    program = (
        "import json, sys\nfrom evaluation import gradcam\n"
        "for case in json.loads(sys.argv[1]):\n"
        "    try:\n        gradcam.main(case)\n    except SystemExit as stop:\n        print(stop.code, file=sys.stderr)\n"
        "print('tensorflow' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, json.dumps([case for case, _ in cases])]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    *lines, imported = done.stderr.splitlines()
    assert imported == "False"
    assert lines[1::2] == ["2"] * len(cases)
    for line, (_, expected) in zip(lines[::2], cases, strict=True):
        assert line.startswith("evaluation.gradcam: ") and expected in line
