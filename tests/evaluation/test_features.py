"""Features: resizing against PIL and TensorFlow 1, independence of batches, the cache, and every kind of input."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evaluation import features
from evaluation.features import NETWORKS, bicubic_matrix, distance_name, extract_features

REFERENCE = Path(__file__).parents[1] / "reference"
seeded = SimpleNamespace(**runpy.run_path(str(REFERENCE / "seeded.py")))


@pytest.fixture(scope="module")
def images():
    return seeded.images(9, 32)


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    return extract_features(images, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


def extract(images, folder, network="efficientnet-lite0", **options):
    return extract_features(images, network, cache_dir=folder, progress=False, **options)


# ---- resizing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "side, target", [((32, 32), 224), ((64, 48), 224), ((256, 342), 224), ((300, 299), 299), ((224, 224), 224)]
)
def test_clean_resizing_is_that_of_pil_in_float(side, target):
    image = np.random.RandomState(0).randint(0, 256, (1, *side, 3), np.uint8)
    channels = [
        Image.fromarray(image[0, ..., c].astype(np.float32)).resize((target, target), Image.Resampling.BICUBIC)
        for c in range(3)
    ]
    resized = features._resized(tf.constant(image), (target, target), "clean")
    np.testing.assert_allclose(resized[0], np.clip(np.stack(channels, -1), 0, 255), rtol=0, atol=1e-4)


def test_clean_resizing_clips_and_does_not_quantize():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, :, 16:] = 255
    resized = features._resized(tf.constant(image), (224, 224), "clean").numpy()
    assert resized.min() == 0 and resized.max() == 255 and len(np.unique(resized)) > 3
    assert np.any(resized != np.rint(resized))


def test_rows_of_a_resizing_sum_to_one_and_equal_size_is_the_identity():
    for pair in ((32, 224), (342, 224), (1024, 299), (1, 8)):
        np.testing.assert_allclose(bicubic_matrix(*pair).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(bicubic_matrix(17, 17), np.eye(17))


@pytest.mark.parametrize("side", [32, 400])
def test_legacy_resizing_is_that_of_tensorflow_1(side):
    image = seeded.images(1, side)
    reference = tf.compat.v1.image.resize_bilinear(image.astype(np.float32), (299, 299), align_corners=False)
    np.testing.assert_array_equal(features._resized(tf.constant(image), (299, 299), "legacy-tf1"), reference)
    # No half-pixel centers: output 0 is input 0, and 299 / side outputs on, input 1.
    assert reference[0, 0, 0, 0] == image[0, 0, 0, 0]


def test_the_two_resizes_are_told_apart(images, expected, tmp_path):
    legacy = extract(images, tmp_path, resize="legacy-tf1")
    assert (expected.resize, legacy.resize) == ("clean", "legacy-tf1")
    assert np.abs(legacy.features - expected.features).max() > 1e-2


# ---- networks -------------------------------------------------------------------------------------------------------


def test_the_default_network_gives_the_golden_features(tmp_path):
    golden = np.load(REFERENCE / "perceptual.npz")
    found = extract(seeded.images(2, 224), tmp_path)
    np.testing.assert_allclose(found.features, golden["efficientnet_features"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(found.logits, golden["efficientnet_logits"], rtol=0, atol=5e-5)
    assert found.features.dtype == found.logits.dtype == np.float32 and len(found) == 2
    assert found.network == "efficientnet-lite0" and len(found.weights_hash) == 64


def test_lpips_networks_return_embeddings_at_the_images_own_size(tmp_path):
    golden = np.load(REFERENCE / "perceptual.npz")
    for side in (32, 64):
        pairs = [np.rint((part + 1) * 127.5).astype(np.uint8) for part in seeded.image_pairs(side)]
        found = extract(np.concatenate(pairs), tmp_path, "lpips-alex")
        distances = np.sum(np.square(found.features[:4] - found.features[4:]), axis=1)
        np.testing.assert_allclose(distances, golden[f"lpips_alex_{side}"], rtol=0.02, atol=1e-3)  # of quantized images
        assert found.logits is None and found.resize == "native"
    small = extract(seeded.images(2, 28), tmp_path, "lpips-alex")
    assert small.resize == "clean-32" and np.isfinite(small.features).all()


def test_only_the_published_network_is_called_fid():
    assert {name for name in NETWORKS if distance_name(name) == "fid"} == {"inception-2015"}
    assert distance_name("efficientnet-lite0") == "fd_efficientnet_lite0"
    assert distance_name("inception-keras") == "fd_inception_keras"
    with pytest.raises(ValueError, match="Did you mean 'inception-2015'"):
        distance_name("inception-2016")


def test_result_does_not_depend_on_the_batch_size(images, expected, tmp_path):
    for batch_size in (1, 5):
        found = extract(images, tmp_path / str(batch_size), batch_size=batch_size)
        np.testing.assert_allclose(found.features, expected.features, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-6)
    backwards = extract(images[::-1], tmp_path)
    np.testing.assert_allclose(backwards.features[::-1], expected.features, rtol=0, atol=1e-6)


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_a_second_call_reads_the_cache_and_a_damaged_cache_is_made_anew(images, expected, tmp_path, monkeypatch):
    runs = []
    run = features._run
    monkeypatch.setattr(features, "_run", lambda *arguments: runs.append(1) or run(*arguments))
    for _ in range(2):
        np.testing.assert_array_equal(extract(images, tmp_path).features, expected.features)
    assert len(runs) == 1
    (path,) = (tmp_path / "features").iterdir()
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 1
    for number, other in enumerate((content[:200], content[:-30], b"", b"nonsense", bytes(flipped))):
        path.write_bytes(other)
        np.testing.assert_array_equal(extract(images, tmp_path).features, expected.features)
        assert len(runs) == number + 2
    assert path.read_bytes() == content and len(list(path.parent.iterdir())) == 1


def test_other_images_networks_or_resizes_do_not_share_a_cache_entry(images, tmp_path, monkeypatch):
    def run(run, images, batch_size, title, progress):
        return {"features": np.zeros((len(images), 1), np.float32)}

    monkeypatch.setattr(features, "_run", run)
    monkeypatch.setattr(features, "_runner", lambda *arguments: None)
    other = images.copy()
    other[-1, -1, -1, -1] ^= 1
    keys = [(images, {}), (other, {}), (images[:-1], {}), (images, {"resize": "legacy-tf1"}), (images, {"network": "lpips-alex"}),
            (images.reshape(9, 64, 16, 3), {}), (images, {}), (images, {"batch_size": 2})]  # fmt: skip
    counts = []
    for array, options in keys:
        extract(array, tmp_path, **options)
        counts.append(len(list((tmp_path / "features").iterdir())))
    assert counts == [1, 2, 3, 4, 5, 6, 6, 6]


def test_a_cached_result_needs_no_tensorflow(images, expected, tmp_path):
    extract(images, tmp_path)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np; from evaluation.features import extract_features\n"
        f"found = extract_features(np.load({str(tmp_path / 'images.npy')!r}, mmap_mode='r'), cache_dir={str(tmp_path)!r})\n"
        "assert found.features.shape == (9, 1280) and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REFERENCE.parents[1], check=True)


# ---- images ---------------------------------------------------------------------------------------------------------


class Rows:
    """The least that images need: shape, dtype, len and slices; notes the largest slice."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = array, array.shape, array.dtype, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        self.largest = max(self.largest, len(self.array[index]))
        return self.array[index]


def test_arrays_memory_maps_and_sliceable_objects_are_read_a_batch_at_a_time(images, expected, tmp_path):
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images.shape)
    mapped[:] = images
    rows = Rows(images)
    for source in (mapped, rows):
        np.testing.assert_array_equal(
            extract(source, tmp_path / type(source).__name__, batch_size=4).features, expected.features
        )
    assert rows.largest == 4


def test_floats_are_quantized_as_they_would_be_saved(images, expected, tmp_path):
    floats = images.astype(np.float32) / 127.5 - 1
    jitter = np.random.RandomState(0).uniform(-0.003, 0.003, floats.shape).astype(np.float32)
    for values in (floats, np.clip(floats + jitter, -1, 1), floats.astype(np.float64)):
        np.testing.assert_array_equal(extract(values, tmp_path).features, expected.features)
    assert len(list((tmp_path / "features").iterdir())) == 1  # and they share the entry


def test_gray_is_repeated_and_alpha_composited_on_white(images):
    gray = next(features._batches(images[..., :1], 16))
    np.testing.assert_array_equal(gray, np.repeat(images[..., :1], 3, axis=-1))
    alpha = np.full((*images.shape[:3], 1), 255, np.uint8)
    alpha[:, :16] = 0
    alpha[:, 16:20] = 128
    composited = next(features._batches(np.concatenate([images, alpha], -1), 16))
    np.testing.assert_array_equal(composited[:, :16], 255)
    np.testing.assert_array_equal(composited[:, 20:], images[:, 20:])
    half = images[:, 16:20] * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(composited[:, 16:20], half, atol=0.5001)


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.zeros((0, 32, 32, 3), np.uint8), "Received: .0, 32, 32, 3."),
        (np.zeros((32, 32, 3), np.uint8), "n, height, width, channels"),
        (np.zeros((2, 32, 32, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((2, 32, 32, 3), np.int64), "uint8, or float in .-1, 1.. Received: int64"),
        (np.full((2, 32, 32, 3), 200.0), "finite and in .-1, 1.. Received: 200.0 among images 0 to 1"),
        (np.full((2, 32, 32, 3), np.nan, np.float32), "finite and in .-1, 1.. Received: nan"),
        ([np.zeros((2, 2, 3)), np.zeros((3, 3, 3))], "all of one size.*Received: list"),
    ],
)
def test_images_that_cannot_be_used_are_refused(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        extract(bad, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_options_are_refused(images, tmp_path):
    for options, message in (
        ({"network": "efficientnet"}, "Did you mean 'efficientnet-lite0'"),
        ({"resize": "bilinear"}, "'clean', 'legacy-tf1'. Received: 'bilinear'"),
        ({"batch_size": 0}, "batch_size must be at least 1. Received: 0"),
        ({"weights": tmp_path / "absent.pth"}, "no weight file .*absent.pth"),
        ({"network": "resnet50", "weights": tmp_path / "absent.h5"}, "no weight file .*absent.h5 .for ResNet50"),
    ):
        with pytest.raises(ValueError, match=message):
            extract(images, tmp_path, **options)


def test_progress_is_shown_with_the_time_left(images, tmp_path, capsys):
    extract_features(images, cache_dir=tmp_path)
    shown = capsys.readouterr().err
    assert "features (efficientnet-lite0)" in shown and "9/9" in shown


@pytest.mark.slow
@pytest.mark.parametrize("network, application", [("resnet50", "ResNet50"), ("inception-keras", "InceptionV3")])
def test_networks_of_keras_applications_load_from_a_file(network, application, images, tmp_path):
    import keras

    path = tmp_path / "network.weights.h5"
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, application)(weights=None, classifier_activation=None)
    model.save_weights(path)
    found = extract(images[:2], tmp_path, network, weights=path)
    assert found.features.shape == (2, 2048) and found.logits.shape == (2, 1000)
    side = NETWORKS[network].side
    resized = features._resized(tf.constant(images[:2]), (side, side), "clean").numpy()
    module = keras.applications.resnet50 if network == "resnet50" else keras.applications.inception_v3
    np.testing.assert_allclose(
        found.logits, model(module.preprocess_input(resized), training=False), rtol=1e-3, atol=1e-4
    )
    with pytest.raises(ValueError, match="not the expected file. Expected sha256: 00000000"):
        extract(images[:2], tmp_path, network, weights=f"{path}@sha256:00000000")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="network.weights.h5 holds no weights of"):
        extract(images[:2], tmp_path, network, weights=path)
