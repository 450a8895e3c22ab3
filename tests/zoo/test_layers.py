"""Spectral norm against NumPy's singular values and power iteration; dropout against its definition."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import randomness
from zoo.generative import dtype_policy
from zoo.layers import (
    BatchNormalization,
    Dropout,
    SpectralConv2D,
    SpectralConv2DTranspose,
    SpectralDense,
    SpectralUpsamplingConv2D,
    UpsamplingConv2D,
    spectral_layers,
)

# Layer, its arguments, input shape, and how its kernel becomes the matrix [inputs, outputs].
LAYERS = {
    "conv": (
        SpectralConv2D,
        {"filters": 5, "kernel_size": 3, "padding": "same"},
        (2, 6, 6, 4),
        lambda k: k.reshape(-1, 5),
    ),
    "transpose": (
        SpectralConv2DTranspose,
        {"filters": 5, "kernel_size": 4, "strides": 2, "padding": "same"},
        (2, 3, 3, 4),
        lambda k: k.transpose(0, 1, 3, 2).reshape(-1, 5),
    ),
    "dense": (SpectralDense, {"units": 5}, (2, 7), lambda k: k),
}

every_layer = pytest.mark.parametrize("kind", list(LAYERS))


def array(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def built(kind, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    layer_class, arguments, shape, matrix_of = LAYERS[kind]
    layer = layer_class(**arguments, **kwargs)
    layer.build(shape)
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return layer, tf.constant(x), matrix_of


def plain_twin(layer, shape, kernel):
    """Keras' own layer, without spectral norm, with the given kernel and the bias of `layer`."""
    twin_class = {
        SpectralConv2D: keras.layers.Conv2D,
        SpectralConv2DTranspose: keras.layers.Conv2DTranspose,
        SpectralDense: keras.layers.Dense,
    }
    twin = twin_class[type(layer)].from_config(layer.get_config())
    twin.build(shape)
    twin.set_weights([kernel, array(layer.bias)])
    return twin


@every_layer
def test_power_iterations_follow_numpy_step_by_step(kind):
    layer, _, matrix_of = built(kind)
    matrix = matrix_of(array(layer._kernel)).astype(np.float64)
    u = array(layer.u).astype(np.float64)
    assert u.shape == (5,) and np.isclose(np.linalg.norm(u), 1, atol=1e-6)
    for _ in range(5):
        layer.power_iteration()
        v = matrix @ u
        v /= np.linalg.norm(v)
        u = matrix.T @ v
        u /= np.linalg.norm(u)
        np.testing.assert_allclose(array(layer.u), u, atol=1e-5)
        np.testing.assert_allclose(array(layer.v), v, atol=1e-5)
        np.testing.assert_allclose(layer.sigma, v @ matrix @ u, rtol=1e-5)


@every_layer
def test_sigma_becomes_the_largest_singular_value(kind):
    layer, _, matrix_of = built(kind)
    largest = np.linalg.svd(matrix_of(array(layer._kernel)), compute_uv=False)[0]
    assert float(layer.sigma) < largest * 1.000001
    for _ in range(300):
        layer.power_iteration()
    np.testing.assert_allclose(layer.sigma, largest, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.svd(matrix_of(array(layer.kernel)), compute_uv=False)[0], 1.0, rtol=1e-4)


@every_layer
def test_the_forward_pass_uses_the_kernel_divided_by_sigma(kind):
    layer, x, _ = built(kind)
    layer._kernel.assign(3.0 * layer._kernel)
    layer.power_iteration()
    layer.bias.assign(np.arange(5, dtype=np.float32))
    twin = plain_twin(layer, x.shape, array(layer._kernel) / float(layer.sigma))
    np.testing.assert_allclose(layer(x), twin(x), rtol=1e-4, atol=1e-5)


@every_layer
def test_scaling_the_kernel_does_not_change_the_output(kind):
    layer, x, _ = built(kind)
    before = layer(x).numpy()
    layer._kernel.assign(17.0 * layer._kernel)
    np.testing.assert_allclose(layer(x), before, rtol=1e-4, atol=1e-5)


@every_layer
def test_a_forward_pass_overwrites_no_kernel_and_moves_no_vector(kind):
    layer, x, _ = built(kind)
    before = [array(variable) for variable in layer.variables]
    for training in (True, False):
        layer(x, training=training) if "training" in layer._call_signature.parameters else layer(x)
    for old, variable in zip(before, layer.variables, strict=True):
        np.testing.assert_array_equal(old, array(variable))


@every_layer
def test_one_power_iteration_moves_the_vectors_once_and_never_the_kernel(kind):
    layer, _, _ = built(kind)
    kernel, u, v = array(layer._kernel), array(layer.u), array(layer.v)
    layer.power_iteration()
    assert not np.array_equal(u, array(layer.u)) and not np.array_equal(v, array(layer.v))
    np.testing.assert_array_equal(kernel, array(layer._kernel))
    assert np.isclose(np.linalg.norm(array(layer.u)), 1, atol=1e-5) and np.isclose(
        np.linalg.norm(array(layer.v)), 1, atol=1e-5
    )


@every_layer
def test_the_gradient_flows_through_sigma_as_finite_differences_say(kind):
    layer, x, matrix_of = built(kind)
    weights = tf.constant(np.random.default_rng(1).normal(size=layer(x).shape), tf.float32)
    with tf.GradientTape() as tape:
        objective = tf.reduce_sum(layer(x) * weights)
    gradient = tape.gradient(objective, layer.trainable_variables)[0].numpy().astype(np.float64)

    # The layer is linear in its normalized kernel: d objective / d (W / sigma), from Keras' own layer.
    kernel = array(layer._kernel)
    sigma = float(layer.sigma)
    twin = plain_twin(layer, x.shape, kernel / sigma)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(twin(x) * weights)
    linear = tape.gradient(value, twin.trainable_variables)[0].numpy().astype(np.float64)

    u, v = array(layer.u).astype(np.float64), array(layer.v).astype(np.float64)

    def function(candidate):  # in float64
        matrix = matrix_of(candidate)
        return np.sum(linear * candidate / (v @ matrix @ u))

    kernel = kernel.astype(np.float64)
    generator = np.random.default_rng(2)
    for _ in range(8):
        direction = generator.normal(size=kernel.shape)
        difference = (function(kernel + 1e-6 * direction) - function(kernel - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(
            np.sum(gradient * direction), difference, rtol=2e-3, atol=1e-3 * np.abs(linear).sum() / sigma / 100
        )
    # W / sigma(W) does not change along W itself.
    scale = np.linalg.norm(gradient) * np.linalg.norm(kernel)
    assert abs(np.sum(gradient * kernel)) < 1e-4 * scale
    assert np.abs(gradient - linear / sigma).max() > 1e-3 * np.abs(gradient).max(), "no gradient through sigma"


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@every_layer
def test_kernel_vectors_and_sigma_stay_float32_under_mixed_precision(kind, policy):
    reference, x, _ = built(kind)
    with dtype_policy(policy):
        layer, _, _ = built(kind)
        np.testing.assert_array_equal(array(layer._kernel), array(reference._kernel))
        output = layer(x)
        assert output.dtype == policy.removeprefix("mixed_")
        layer.power_iteration()
        reference.power_iteration()
        assert {variable.dtype for variable in layer.variables} == {"float32"}
        assert layer.sigma.dtype == tf.float32 and layer.kernel.dtype == policy.removeprefix("mixed_")
        # Bit for bit what float32 gives, inside an autocast scope as well: nothing was rounded on the way.
        with keras.src.backend.common.variables.AutocastScope(policy.removeprefix("mixed_")):
            assert float(layer.sigma) == float(reference.sigma)
        np.testing.assert_array_equal(array(layer.u), array(reference.u))
        np.testing.assert_allclose(tf.cast(output, tf.float32), built(kind)[0](x), atol=0.1)


@every_layer
def test_saved_variables_bring_back_kernel_and_vectors(kind, tmp_path):
    layer, x, _ = built(kind)
    layer._kernel.assign(3.0 * layer._kernel)
    layer.power_iteration()
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    expected = model(x).numpy()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is type(layer)
    assert len(layer.variables) == 4  # kernel, bias, u, v
    for one, two in zip(layer.variables, loaded.layers[-1].variables, strict=True):
        np.testing.assert_array_equal(array(one), array(two))
    np.testing.assert_array_equal(loaded(x).numpy(), expected)

    store = {}
    layer.save_own_variables(store)
    np.testing.assert_array_equal(store["0"], array(layer._kernel))
    other, _, _ = built(kind, seed=9)
    other.load_own_variables(store)
    np.testing.assert_array_equal(other(x).numpy(), layer(x).numpy())


@every_layer
def test_only_kernel_and_bias_are_trainable(kind):
    layer, _, _ = built(kind)
    assert [variable.name for variable in layer.trainable_variables] == ["kernel", "bias"]
    assert sorted(variable.name for variable in layer.non_trainable_variables) == ["u", "v"]


@every_layer
def test_another_seed_starts_from_another_vector(kind):
    assert not np.array_equal(array(built(kind, seed=0)[0].u), array(built(kind, seed=1)[0].u))


def test_a_kernel_of_zeros_gives_finite_numbers():
    layer, x, _ = built("dense")
    layer._kernel.assign(tf.zeros_like(layer._kernel))
    layer.power_iteration()
    assert np.isfinite(array(layer.u)).all() and np.isfinite(array(layer.v)).all()


def test_spectral_layers_are_found_at_any_depth_and_no_others():
    conv, dense, inner = SpectralConv2D(2, 3), SpectralDense(1), SpectralDense(3)

    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.items = [keras.layers.Conv2D(2, 1), inner]

        def call(self, x):
            return x

    model = keras.Sequential([conv, keras.Sequential([Block(), keras.layers.Dense(1)]), dense])
    assert {id(layer) for layer in spectral_layers(model)} == {id(conv), id(dense), id(inner)}


# Nearest neighbours x2 and a convolution, as one transposed convolution in training.


@pytest.mark.parametrize("kind", [UpsamplingConv2D, SpectralUpsamplingConv2D])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "XLA"])
def test_a_doubling_convolution_in_training_is_the_one_of_the_doubled_map(kind, jit_compile):
    layer = kind(5, use_bias=True, bias_initializer="random_normal", activation="relu")
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4, 7)), tf.float32)
    assert layer(x).shape == layer.compute_output_shape(x.shape) == (2, 6, 8, 5)
    weights = tf.constant(np.random.default_rng(1).normal(size=(2, 6, 8, 5)), tf.float32)

    @tf.function(jit_compile=jit_compile)
    def run(x, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(weights * y)
        return y, *tape.gradient(loss, [x, *(each.value for each in layer.trainable_variables)])

    found, expected = run(x, True), run(x, False)
    assert len(found) == 4 and np.abs(expected[0]).max() > 0.1
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    # The doubled map, by other means: every tap of the kernel, one after another.
    doubled = np.pad(np.kron(x, np.ones((1, 2, 2, 1))), ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = array(layer.kernel)
    total = sum(doubled[:, a : a + 6, b : b + 8] @ kernel[a, b] for a in range(3) for b in range(3)) + array(layer.bias)
    np.testing.assert_allclose(found[0], np.maximum(total, 0), rtol=1e-4, atol=1e-5)


def test_a_doubling_convolution_is_made_again_from_its_config():
    layer = UpsamplingConv2D(5, use_bias=False)
    layer.build((None, 3, 4, 7))
    again = UpsamplingConv2D.from_config(layer.get_config())
    again.build((None, 3, 4, 7))
    assert [each.shape for each in again.variables] == [each.shape for each in layer.variables] == [(3, 3, 7, 5)]


@pytest.mark.parametrize("arguments", [{"kernel_size": 4}, {"padding": "valid"}, {"strides": 2}, {"groups": 2}])
def test_a_doubling_convolution_of_another_form_is_refused(arguments):
    with pytest.raises(ValueError, match="UpsamplingConv2D must have"):
        UpsamplingConv2D(4, **arguments)


# Batch norm: Keras' own layer is the reference.


def both_norms(shape, policy="float32", **arguments):
    """(ours, Keras'), with the same random scales and offsets."""
    layers = []
    for kind in (BatchNormalization, keras.layers.BatchNormalization):
        with dtype_policy(policy):
            layers.append(kind(**arguments))
        layers[-1].build(shape)
    draw = np.random.default_rng(1)
    for one, other in zip(*(layer.trainable_variables for layer in layers), strict=True):
        values = draw.uniform(0.5, 2, one.shape)
        one.assign(values)
        other.assign(values)
    return layers


def normalized(layer, x, jit_compile=False):
    """(outputs, gradients of a weighted sum of squares by the images and variables, moving statistics) in training."""
    weights = tf.constant(np.random.default_rng(2).uniform(0, 1, x.shape), tf.float32)

    @tf.function(jit_compile=jit_compile)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(weights * tf.square(tf.cast(y, tf.float32)))
        return y, tape.gradient(loss, [x, *(each.value for each in layer.trainable_variables)])

    y, gradients = run(tf.constant(x))
    return [array(each) for each in (y, *gradients, layer.moving_mean, layer.moving_variance)]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((6, 8, 8, 5), {"epsilon": 1e-5, "momentum": 0.8}),
        ((2, 3, 5, 16), {}),
        ((2, 1, 1, 3), {"scale": False}),
        ((3, 4, 4, 4), {"center": False, "scale": False}),
        ((7, 9), {}),
    ],
)
def test_batch_norm_computes_what_that_of_keras_does(shape, arguments, jit_compile):
    x = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    for one, other in zip(
        *(normalized(layer, x, jit_compile) for layer in both_norms(shape, **arguments)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.03), ("mixed_float16", 0.004)])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "XLA"])
def test_batch_norm_in_mixed_precision_keeps_its_statistics_and_scales_in_float32(policy, tolerance, jit_compile):
    x = np.random.default_rng(0).normal(3, 2, (6, 8, 8, 5)).astype(np.float32)
    ours, _ = both_norms(x.shape, policy)
    _, reference = both_norms(x.shape)
    y, dx, dgamma, dbeta, mean, variance = normalized(ours, x, jit_compile)
    assert y.dtype == ours.compute_dtype and mean.dtype == variance.dtype == dgamma.dtype == dbeta.dtype == np.float32
    expected = normalized(reference, x)
    for one, other in zip((y, dx, dgamma, dbeta), expected, strict=False):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one.astype(np.float32), other, atol=tolerance * scale)
    np.testing.assert_allclose(mean, expected[4], rtol=1e-3)
    np.testing.assert_allclose(variance, expected[5], rtol=1e-3)


def test_batch_norm_has_the_second_derivatives_that_gradient_penalties_need():
    shape = (4, 3, 3, 2)
    x = tf.constant(np.random.default_rng(0).normal(0, 1, shape), tf.float32)

    def penalty(layer):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x, training=True) ** 3)
            squared = tf.reduce_sum(tape.gradient(loss, x) ** 2)
        return outer.gradient(squared, [x, layer.gamma.value])

    for one, other in zip(*map(penalty, both_norms(shape)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())


def test_batch_norm_in_inference_is_that_of_keras_bit_for_bit_and_moves_nothing():
    ours, reference = both_norms((2, 3, 3, 4))
    x = tf.constant(np.random.default_rng(0).normal(0, 1, (2, 3, 3, 4)), tf.float32)
    before = array(ours.moving_variance)
    np.testing.assert_array_equal(ours(x), reference(x, training=False))
    np.testing.assert_array_equal(array(ours.moving_variance), before)


# Dropout.


def dropped(rate, x, step=0, **kwargs):
    with randomness.scope(0, step, 0):
        return Dropout(rate)(x, training=True, **kwargs).numpy()


def test_dropout_zeroes_the_rate_and_scales_the_rest():
    x = np.random.default_rng(0).uniform(1, 2, (100, 300)).astype(np.float32)
    for rate in (0.25, 0.6):
        result = dropped(rate, tf.constant(x))
        zero = result == 0
        assert abs(zero.mean() - rate) < 0.01
        np.testing.assert_allclose(result[~zero], x[~zero] / (1 - rate), rtol=1e-6)
        assert abs(result.mean() - x.mean()) < 0.05
        rows = zero.mean(axis=1)
        assert rows.std() > 0 and len({row.tobytes() for row in zero}) == 100, "every image has its own mask"


def test_dropout_is_a_function_of_the_step():
    x = tf.ones([4, 50])
    assert dropped(0.5, x).tobytes() == dropped(0.5, x).tobytes()
    assert dropped(0.5, x).tobytes() != dropped(0.5, x, step=1).tobytes()


def test_dropout_does_nothing_in_inference_or_at_rate_0_and_then_needs_no_scope():
    x = tf.ones([4, 50])
    np.testing.assert_array_equal(Dropout(0.5)(x, training=False), x)
    np.testing.assert_array_equal(Dropout(0.5)(x), x)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True), x)


def test_dropout_in_training_outside_a_scope_says_what_to_do():
    with pytest.raises(ValueError, match="randomness.scope"):
        Dropout(0.5)(tf.ones([2, 2]), training=True)


def test_dropout_gradients_are_those_of_its_mask():
    x = tf.ones([4, 50])
    with randomness.scope(0, 0, 0), tf.GradientTape() as tape:
        tape.watch(x)
        value = Dropout(0.5)(x, training=True)
    np.testing.assert_array_equal(tape.gradient(value, x), value)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2])
def test_dropout_refuses_impossible_rates(rate):
    with pytest.raises(ValueError, match="`rate` must be in"):
        Dropout(rate)


def test_dropout_keeps_its_rate_in_the_config_and_the_dtype_of_its_inputs():
    layer = Dropout.from_config(Dropout(0.3).get_config())
    assert layer.rate == 0.3
    with dtype_policy("mixed_bfloat16"):
        assert dropped(0.5, tf.ones([2, 4])).dtype == tf.bfloat16.as_numpy_dtype
