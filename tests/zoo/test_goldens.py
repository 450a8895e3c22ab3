"""Layers, blocks, losses and whole networks against numbers that other implementations made.

PyTorch 2.13: tests/reference/make_gan_torch.py in the environment of requirements-torch.txt. tensorflow-addons 0.23 on
TensorFlow 2.15, the one place where that package still serves: tests/reference/make_addons.py in the environment of
requirements-addons.txt. Each test names its own.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo import diffaugment, losses, randomness
from zoo.architectures import fastgan
from zoo.layers import SpectralConv2D, SpectralConv2DTranspose, SpectralDense, spectral_layers

REFERENCE = Path(__file__).parents[1] / "reference"
TORCH = np.load(REFERENCE / "gan_torch.npz")
ADDONS = np.load(REFERENCE / "addons.npz")
seeded = SimpleNamespace(**runpy.run_path(str(REFERENCE / "seeded.py")))
seeded_dcgan = SimpleNamespace(**runpy.run_path(str(REFERENCE / "seeded_dcgan.py")))

SPECTRAL = {
    "conv": lambda: SpectralConv2D(5, 3, padding="same"),
    "transpose": lambda: SpectralConv2DTranspose(5, 4, strides=2, padding="same"),
    "dense": lambda: SpectralDense(5),
}
every_spectral_layer = pytest.mark.parametrize("kind", list(SPECTRAL))


def golden(case):
    """Returns `{name: array}` of a case of gan_torch.npz, in PyTorch's layout."""
    return {name.removeprefix(f"{case}/"): TORCH[name] for name in TORCH.files if name.startswith(f"{case}/")}


def images_last(array):
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def kernel_from_torch(kernel):
    # [out, in, h, w] of a convolution -> [h, w, in, out]; [in, out, h, w] of a transposed one -> [h, w, out, in].
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


def vector_from_torch(v, kernel_size):
    """The right singular vector, over (in, h, w) in PyTorch, over (h, w, in) here."""
    if kernel_size is None:
        return v
    return v.reshape(-1, *kernel_size).transpose(1, 2, 0).ravel()


def array(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def assign(variables, state):
    """Gives variables, in their order, PyTorch's arrays, in theirs."""
    leaves = {
        "kernel": ("weight_orig", "weight"), "u": ("weight_u",), "v": ("weight_v",), "gamma": ("weight",),
        "beta": ("bias",), "moving_mean": ("running_mean",), "moving_variance": ("running_var",),
    }  # fmt: skip
    assert len(variables) == len(state)
    for variable, (name, value) in zip(variables, state.items(), strict=True):
        assert name.rsplit(".")[-1] in leaves[variable.name], f"{name} for {variable.path}"
        if variable.name == "kernel":
            kernel_size = value.shape[2:]
            value = kernel_from_torch(value)
        variable.assign(vector_from_torch(value, kernel_size) if variable.name == "v" else value)


# ---- spectral norm --------------------------------------------------------------------------------------------------


def spectral_layer(kind, case):
    """Returns `(layer, input, cotangent, size of the kernel)` of a golden case, kernel and bias transplanted."""
    layer, x = SPECTRAL[kind](), tf.constant(images_last(case["x"]))
    layer.build(x.shape)
    layer._kernel.assign(kernel_from_torch(case["weight"]))
    layer.bias.assign(case["bias"])
    return layer, x, images_last(case["cotangent"]), case["weight"].shape[2:] or None


def kernel_gradient(layer, x, cotangent):
    """Returns `(output, gradient of the kernel)` of sum(output * cotangent)."""
    with tf.GradientTape() as tape:
        output = layer(x)
        objective = tf.reduce_sum(output * cotangent)
    return output, tape.gradient(objective, layer.trainable_variables)[0]


@every_spectral_layer
def test_three_training_steps_with_spectral_norm_are_pytorchs(kind):
    """`torch.nn.utils.spectral_norm`, whose order is Miyato's (v from u, then u from v), with SGD between the steps.

    Numbers: make_gan_torch.py, requirements-torch.txt.
    """
    case = golden(f"spectral_{kind}")
    layer, x, cotangent, kernel_size = spectral_layer(kind, case)
    layer.u.assign(case["u"])
    layer.v.assign(vector_from_torch(case["v"], kernel_size))
    for step in range(3):
        expected = golden(f"spectral_{kind}/step_{step}")
        layer.power_iteration()
        output, gradient = kernel_gradient(layer, x, cotangent)
        np.testing.assert_allclose(layer.sigma, expected["sigma"], rtol=1e-5)
        np.testing.assert_allclose(layer.kernel, kernel_from_torch(expected["normalized"]), atol=1e-5)
        np.testing.assert_allclose(output, images_last(expected["output"]), atol=1e-4)
        np.testing.assert_allclose(gradient, kernel_from_torch(expected["gradient"]), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(array(layer.u), expected["u"], atol=1e-5)
        np.testing.assert_allclose(array(layer.v), vector_from_torch(expected["v"], kernel_size), atol=1e-5)
        layer._kernel.assign_sub(0.01 * gradient)


@every_spectral_layer
def test_spectral_vectors_run_through_those_of_pytorchs_parametrization_to_the_same_limit(kind):
    """`torch.nn.utils.parametrizations.spectral_norm` makes u from v, then v from u: half an iteration apart from ours.

    So our u and v at a step are its u of the next step and its v of this one, and sigma lies between its values of the
    two; kernel, sigma and gradient agree at the limit. Numbers: make_gan_torch.py, requirements-torch.txt.
    """
    case = golden(f"parametrized_{kind}")
    layer, x, cotangent, kernel_size = spectral_layer(kind, case)
    steps = [golden(f"parametrized_{kind}/step_{step}") for step in range(3)]
    layer.u.assign(steps[0]["u"])
    for now, after in zip(steps, steps[1:]):
        layer.power_iteration()
        np.testing.assert_allclose(array(layer.v), vector_from_torch(now["v"], kernel_size), atol=1e-5)
        np.testing.assert_allclose(array(layer.u), after["u"], atol=1e-5)
        assert now["sigma"] < float(layer.sigma) < after["sigma"]
    for _ in range(200):
        layer.power_iteration()
    limit = golden(f"parametrized_{kind}/converged")
    np.testing.assert_allclose(layer.sigma, limit["sigma"], rtol=1e-5)
    np.testing.assert_allclose(layer.kernel, kernel_from_torch(limit["normalized"]), atol=1e-5)
    _, gradient = kernel_gradient(layer, x, cotangent)
    np.testing.assert_allclose(gradient, kernel_from_torch(limit["gradient"]), rtol=1e-3, atol=1e-3)


# ---- FastGAN's blocks -----------------------------------------------------------------------------------------------

BLOCKS = {
    "excitation": lambda: fastgan.Excitation(5, keras.layers.Activation("silu")),
    "up_plain": lambda: fastgan.UpBlock(5, noisy=False),
    "up_noisy": lambda: fastgan.UpBlock(5, noisy=True),
    "down": lambda: fastgan.DownBlock(5),
}
OF_NOISE = ("weight", "constant")


@pytest.mark.parametrize("name", list(BLOCKS))
def test_fastgans_blocks_are_pytorchs_in_inference_and_in_training(name):
    """Skip-layer excitation, plain and noisy up blocks (the noise's weight is 0), a down block; weights transplanted.

    In training: one power iteration, batch statistics, the gradient of the inputs, and the step of the moving statistics
    (PyTorch's moving variance takes the unbiased variance of the batch, Keras' the biased one). Numbers: make_gan_torch.py,
    requirements-torch.txt.
    """
    case, block = golden(name), BLOCKS[name]()
    inputs = [tf.constant(images_last(case[f"input_{index}"])) for index in range(2) if f"input_{index}" in case]
    takes_training = {} if name == "excitation" else {"training": True}
    with randomness.scope(0, 0, 0):
        block(*inputs)
    variables = [variable for variable in block.variables if variable.name not in OF_NOISE]
    assign(variables, golden(f"{name}/state"))
    np.testing.assert_allclose(block(*inputs), images_last(case["inference"]), atol=1e-5)

    for layer in spectral_layers(block):
        layer.power_iteration()
    with tf.GradientTape() as tape, randomness.scope(0, 0, 0):
        tape.watch(inputs)
        output = block(*inputs, **takes_training)
        objective = tf.reduce_sum(output * images_last(case["cotangent"]))
    np.testing.assert_allclose(output, images_last(case["training"]), atol=2e-5)
    for index, gradient in enumerate(tape.gradient(objective, inputs)):
        np.testing.assert_allclose(gradient, images_last(case[f"gradient_{index}"]), atol=1e-4)
    assert_moved(variables, golden(f"{name}/state"), golden(f"{name}/moved"), count=np.prod(output.shape[:3]))


def assert_moved(variables, before, moved, count):
    """Compares the moving statistics after one training pass over `count` values a channel."""
    statistics = [variable for variable in variables if variable.name.startswith("moving")]
    assert len(statistics) == len(moved)
    for variable, (name, value) in zip(statistics, moved.items(), strict=True):
        if name.endswith("running_var"):
            unbiased = (value - 0.9 * before[name]) / 0.1
            value = 0.9 * before[name] + 0.1 * unbiased * (count - 1) / count
        np.testing.assert_allclose(array(variable), value, rtol=1e-4, atol=1e-5)


# ---- DCGAN-64 -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_width():
    return zoo.create("dcgan", (64, 64, 3))


@pytest.fixture
def dcgan64(full_width):
    """The full-width model with the seeded PyTorch weights."""
    assign(full_width.generator.variables, seeded_dcgan.generator_state())
    assign(full_width.discriminator.variables, seeded_dcgan.discriminator_state())
    return full_width


def real_images():
    return seeded.images(4, 64).astype(np.float32) / 127.5 - 1


def test_dcgan64_makes_pytorchs_images_and_logits(dcgan64):
    """The PyTorch tutorial's networks at full width, weights seeded on both sides (reference/seeded_dcgan.py).

    Numbers: make_gan_torch.py, requirements-torch.txt.
    """
    case = golden("dcgan64")
    images = dcgan64.generator(seeded_dcgan.latents(4, 100)[:2], training=False)
    np.testing.assert_allclose(images, images_last(case["images"]), atol=1e-4)
    np.testing.assert_allclose(dcgan64.discriminate(real_images()), case["logits"], atol=1e-4)


def test_dcgan64_in_training_uses_batch_norm_as_pytorch_does(dcgan64):
    """Batch statistics, epsilon 1e-5, and a step of .1 of the moving ones. Numbers: make_gan_torch.py,
    requirements-torch.txt."""
    case = golden("dcgan64")
    images = dcgan64.generator(seeded_dcgan.latents(4, 100), training=True)
    np.testing.assert_allclose(images[:1], images_last(case["training_images"]), atol=1e-4)
    np.testing.assert_allclose(dcgan64.discriminator(real_images(), training=True), case["training_logits"], atol=1e-3)
    for network, state, layer, count in (
        ("generator", seeded_dcgan.generator_state(), "main.10", 4 * 32 * 32),
        ("discriminator", seeded_dcgan.discriminator_state(), "main.9", 4 * 4 * 4),
    ):
        moved = {
            f"{layer}.running_mean": case[f"{network}_moved_mean"],
            f"{layer}.running_var": case[f"{network}_moved_variance"],
        }
        statistics = [each for each in getattr(dcgan64, network).variables if each.name.startswith("moving")]
        assert_moved(statistics[-2:], state, moved, count)


# ---- losses and penalties -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(losses.ADVERSARIAL))
def test_losses_and_their_gradients_are_pytorchs(name):
    """Values and gradients of PyTorch's criteria on 16 logits. Numbers: make_gan_torch.py, requirements-torch.txt."""
    real, fake, case = tf.constant(TORCH["losses/real"]), tf.constant(TORCH["losses/fake"]), golden(f"losses/{name}")
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([real, fake])
        discriminator_loss = losses.ADVERSARIAL[name].discriminator(real, fake)
        generator_loss = losses.ADVERSARIAL[name].generator(fake)
    np.testing.assert_allclose(discriminator_loss, case["discriminator"], rtol=1e-5)
    np.testing.assert_allclose(generator_loss, case["generator"], rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(discriminator_loss, real), case["real_gradient"], atol=1e-6)
    np.testing.assert_allclose(tape.gradient(discriminator_loss, fake), case["fake_gradient"], atol=1e-6)
    np.testing.assert_allclose(tape.gradient(generator_loss, fake), case["generator_gradient"], atol=1e-6)


def critic_of(case):
    """Returns `(critic, parameters by name)`: conv4 s2, LeakyReLU .2, conv3, tanh, sum over places, dense."""
    parameters = {
        name: tf.Variable(kernel_from_torch(case[name]) if name.endswith("weight") else case[name])
        for name in ("first_weight", "first_bias", "second_weight", "second_bias", "last_weight", "last_bias")
    }

    def critic(images):
        padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
        x = tf.nn.conv2d(padded, parameters["first_weight"], 2, "VALID") + parameters["first_bias"]
        x = tf.nn.conv2d(tf.nn.leaky_relu(x, 0.2), parameters["second_weight"], 1, "SAME") + parameters["second_bias"]
        return (tf.reduce_sum(tf.tanh(x), [1, 2]) @ parameters["last_weight"] + parameters["last_bias"])[:, 0]

    return critic, parameters


@pytest.mark.parametrize("name", ["gradient_penalty", "r1"])
def test_penalties_and_their_gradients_are_pytorchs(name):
    """WGAN-GP at given mixtures, and R1, with the gradients of a small critic's weights (second derivatives).

    Numbers: make_gan_torch.py, requirements-torch.txt.
    """
    case = golden("penalties")
    critic, parameters = critic_of(case)
    real, fake = (tf.constant(images_last(case[each])) for each in ("real", "fake"))
    with tf.GradientTape() as tape:
        if name == "r1":
            penalty = losses.r1_penalty(critic, real)
        else:
            penalty = losses.gradient_penalty(critic, real, fake, case["share_of_real"])
    np.testing.assert_allclose(penalty, case[name], rtol=1e-5)
    gradients = tape.gradient(penalty, parameters, unconnected_gradients="zero")
    for parameter, gradient in gradients.items():
        expected = case[f"{name}_gradient/{parameter}"]
        expected = kernel_from_torch(expected) if parameter.endswith("weight") else expected
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5, err_msg=parameter)


# ---- tensorflow-addons ----------------------------------------------------------------------------------------------


def copies(count):
    return tf.tile(tf.constant(ADDONS["image"].astype(np.float32))[None, :, :, None], [count, 1, 1, 1])


def test_cutout_is_that_of_tensorflow_addons():
    """`tfa.image.cutout` with the same centre, for each of 64 draws. Numbers: make_addons.py, requirements-addons.txt."""
    side = len(ADDONS["image"])
    with randomness.scope(0, 0, 0):
        result = diffaugment.cutout(copies(64))
    with randomness.scope(0, 0, 0):
        rows, columns = randomness.integers([64], 0, side).numpy(), randomness.integers([64], 0, side).numpy()
    assert {0, side - 1} <= set(rows) | set(columns), "no centre at the border"
    np.testing.assert_array_equal(result[..., 0], ADDONS["cutouts"][rows, columns])


def test_translation_is_that_of_tensorflow_addons():
    """`tfa.image.translate` by the same offsets, all 25 of them. Numbers: make_addons.py, requirements-addons.txt."""
    reach = len(ADDONS["image"]) // 8
    with randomness.scope(0, 0, 0):
        result = diffaugment.translation(copies(128))
    with randomness.scope(0, 0, 0):
        down, right = (randomness.integers([128], -reach, reach + 1).numpy() for _ in range(2))
    assert len(set(zip(down, right))) == (2 * reach + 1) ** 2, "not every offset was drawn"
    np.testing.assert_array_equal(result[..., 0], ADDONS["translations"][reach + down, reach + right])


@pytest.mark.parametrize("case", ["moving_average", "moving_average_long"])
def test_the_averaged_generator_follows_the_moving_average_of_tensorflow_addons(case):
    """`tfa.optimizers.MovingAverage(SGD, dynamic_decay=True)`, 15 steps: its decay has our start, (1 + step) / (10 + step).

    With decay .5 the start ends at step 8; with .999 it lasts. Numbers: make_addons.py, requirements-addons.txt.
    """
    decay, weights = float(ADDONS[f"{case}_decay"]), ADDONS[f"{case}_weights"]
    model = zoo.create("gan", (8, 8, 1), latent_dim=2, ema_decay=decay)
    network, average = (keras.layers.Dense(3, use_bias=False) for _ in range(2))
    for layer in (network, average):
        layer.build((None, 2))
        layer.kernel.assign(ADDONS[f"{case}_start"])
    for after, expected in zip(weights, ADDONS[f"{case}_averages"], strict=True):
        network.kernel.assign(after)
        model._update_average(average, network)
        model.step.assign(model.step + 1)
        np.testing.assert_allclose(array(average.kernel), expected, atol=1e-6)
