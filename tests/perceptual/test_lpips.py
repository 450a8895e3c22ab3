"""LPIPS with its real weights against the PyTorch package (tests/reference/make_perceptual.py), and as a Keras layer."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.perceptual.lpips import LPIPS

REFERENCE = Path(__file__).parents[1] / "reference"
seeded = SimpleNamespace(**runpy.run_path(str(REFERENCE / "seeded.py")))
GOLDEN = np.load(REFERENCE / "perceptual.npz")


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips(request):
    return LPIPS(request.param)


@pytest.fixture(scope="module")
def alex():
    return LPIPS("alex")


def test_distances_equal_those_of_the_pytorch_package(lpips):
    for side in seeded.SIDES:
        np.testing.assert_allclose(
            lpips(*seeded.image_pairs(side)), GOLDEN[f"lpips_{lpips.trunk}_{side}"], rtol=0, atol=1e-5
        )


def test_squared_distances_of_embeddings_are_lpips(lpips):
    first, second = seeded.image_pairs(48)
    squared = np.sum(np.square(lpips.embed(first) - lpips.embed(second)), axis=-1)
    np.testing.assert_allclose(squared, lpips(first, second), rtol=1e-5)


def test_it_is_symmetric_zero_on_itself_and_bounded(lpips):
    first, second = seeded.image_pairs(32)
    np.testing.assert_allclose(lpips(first, second), lpips(second, first), rtol=1e-6)
    np.testing.assert_array_equal(lpips(first, first), np.zeros(len(first)))
    assert np.max(lpips(first, second)) < {"alex": 8.047, "vgg": 6.622}[lpips.trunk]


def gradient(layer, images, targets):
    images = tf.convert_to_tensor(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        distance = layer(images, targets)
    return tape.gradient(distance, images).numpy()


def test_the_gradient_is_finite_at_distance_zero_and_points_downhill_elsewhere(alex):
    first, second = seeded.image_pairs(32)
    flat = np.zeros_like(first)
    for images in (first, flat, flat - 1, flat + 1):
        np.testing.assert_array_equal(gradient(alex, images, images), 0.0)
    downhill = gradient(alex, first, second)
    assert np.isfinite(downhill).all() and np.abs(downhill).max() > 0
    norm = np.sum(np.square(downhill), axis=(1, 2, 3), keepdims=True)
    step = 1e-3 * np.asarray(alex(first, second)).reshape(-1, 1, 1, 1) / norm  # asks for a decrease of a thousandth
    decrease = np.asarray(alex(first, second)) - np.asarray(alex(first - step * downhill, second))
    np.testing.assert_allclose(decrease, 1e-3 * np.asarray(alex(first, second)), rtol=0.1)


def test_a_dead_trunk_has_a_finite_gradient():
    from zoo.perceptual import sources

    weights = sources.lpips("alex")
    arrays = {name: array - 1e3 if name.endswith("bias") else array for name, array in weights.arrays.items()}
    layer = LPIPS("alex", sources.Weights(arrays, "dead"))
    first, second = seeded.image_pairs(32)
    np.testing.assert_array_equal(layer(first, second), 0.0)  # no unit is active
    np.testing.assert_array_equal(gradient(layer, first, second), 0.0)


def test_it_runs_compiled_by_xla_and_in_float32_under_mixed_precision():
    first, second = seeded.image_pairs(32, num_pairs=2)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layer = LPIPS("alex")
        eager = layer(first, second)

        @tf.function(jit_compile=True)
        def compiled(images):
            with tf.GradientTape() as tape:
                tape.watch(images)
                distance = layer(images, second)
            return distance, tape.gradient(distance, images)

        distance, slope = compiled(tf.convert_to_tensor(first))
    finally:
        keras.config.set_dtype_policy(before)
    assert eager.dtype == distance.dtype == slope.dtype == tf.float32
    np.testing.assert_allclose(eager, GOLDEN["lpips_alex_32"][:2], atol=1e-5)
    np.testing.assert_allclose(distance, eager, atol=1e-5)
    assert np.isfinite(slope).all()
    assert layer(tf.cast(first, tf.float16), second).dtype == tf.float32


def test_a_model_that_uses_it_does_not_hold_its_weights(alex):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.perceptual = alex
            self.dense = keras.layers.Dense(1)

        def call(self, images):
            return self.dense(self.perceptual(images, images)[:, None])

    model = Model()
    model(np.zeros((1, 32, 32, 3), np.float32))
    assert len(model.weights) == 2 and alex.weights == []


def test_config_round_trip_and_hash(alex):
    config = keras.saving.serialize_keras_object(alex)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == alex.get_config() and again.weights_hash == alex.weights_hash


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 30, 64, 3), "LPIPS alex needs sides of at least 31. Received: .1, 30, 64, 3."),
        ((1, 32, 32, 1), r"shape \[batch, height, width, 3\]"),
        ((32, 32, 3), r"shape \[batch, height, width, 3\]"),
    ],
)
def test_images_that_cannot_be_compared_are_refused(alex, shape, message):
    with pytest.raises(ValueError, match=message):
        alex.embed(np.zeros(shape, np.float32))


def test_an_unknown_trunk_is_refused():
    with pytest.raises(ValueError, match="trunk must be one of 'alex', 'vgg'. Received: 'squeeze'"):
        LPIPS("squeeze")
