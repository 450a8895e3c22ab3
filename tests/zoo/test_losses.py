"""The adversarial losses against their closed forms, at extreme logits and by the direction in which they push."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import typing

import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.losses import ADVERSARIAL

REAL = np.array([0.3, -1.2, 2.5, 0.0], np.float64)
FAKE = np.array([-0.7, 1.9, -3.0, 0.4], np.float64)


def softplus(x):
    return np.logaddexp(0.0, x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# name: (discriminator's loss, generator's loss), straight from the papers' formulae.
CLOSED_FORMS = {
    "non_saturating": (
        -np.mean(np.log(sigmoid(REAL))) - np.mean(np.log(1 - sigmoid(FAKE))),
        -np.mean(np.log(sigmoid(FAKE))),
    ),
    "minimax": (
        -np.mean(np.log(sigmoid(REAL))) - np.mean(np.log(1 - sigmoid(FAKE))),
        np.mean(np.log(1 - sigmoid(FAKE))),
    ),
    "hinge": (np.mean(np.maximum(0, 1 - REAL)) + np.mean(np.maximum(0, 1 + FAKE)), -np.mean(FAKE)),
    "least_squares": (0.5 * np.mean((REAL - 1) ** 2) + 0.5 * np.mean(FAKE**2), 0.5 * np.mean((FAKE - 1) ** 2)),
    "wasserstein": (np.mean(FAKE) - np.mean(REAL), -np.mean(FAKE)),
}

every_loss = pytest.mark.parametrize("name", list(ADVERSARIAL))


def logits(values):
    return tf.constant(values, tf.float32)


@every_loss
def test_losses_equal_their_closed_forms(name):
    discriminator_loss, generator_loss = ADVERSARIAL[name].discriminator, ADVERSARIAL[name].generator
    expected_discriminator, expected_generator = CLOSED_FORMS[name]
    for shape in ([4], [2, 2]):  # one logit an image, or several
        real, fake = tf.reshape(logits(REAL), shape), tf.reshape(logits(FAKE), shape)
        for loss, expected in (
            (discriminator_loss(real, fake), expected_discriminator),
            (generator_loss(fake), expected_generator),
        ):
            assert loss.shape == () and loss.dtype == tf.float32
            np.testing.assert_allclose(loss, expected, rtol=1e-6)


@every_loss
def test_losses_and_gradients_are_finite_at_extreme_logits(name):
    discriminator_loss, generator_loss = ADVERSARIAL[name].discriminator, ADVERSARIAL[name].generator
    real, fake = logits([-1e4, 1e4, 0.0]), logits([1e4, -1e4, 0.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([real, fake])
        losses = [discriminator_loss(real, fake), generator_loss(fake)]
    for loss in losses:
        assert np.isfinite(loss)
        for gradient in tape.gradient(loss, [real, fake]):
            assert gradient is None or np.isfinite(gradient).all()


@every_loss
def test_the_cross_entropy_still_pushes_where_the_sigmoid_has_saturated(name):
    if name not in ("non_saturating", "minimax"):
        pytest.skip("no sigmoid")
    discriminator_loss, generator_loss = ADVERSARIAL[name].discriminator, ADVERSARIAL[name].generator
    np.testing.assert_allclose(discriminator_loss(logits([-200.0]), logits([300.0])), 500.0, rtol=1e-6)
    expected = 200.0 if name == "non_saturating" else -softplus(-200.0)
    np.testing.assert_allclose(generator_loss(logits([-200.0])), expected, rtol=1e-6, atol=1e-30)


@every_loss
def test_the_discriminator_pushes_real_up_and_fake_down_and_the_generator_fake_up(name):
    discriminator_loss, generator_loss = ADVERSARIAL[name].discriminator, ADVERSARIAL[name].generator
    real, fake = logits([-0.5, 0.2]), logits([0.5, 0.2])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([real, fake])
        discriminator, generator = discriminator_loss(real, fake), generator_loss(fake)
    assert (tape.gradient(discriminator, real).numpy() < 0).all(), "descent must raise the logits of real images"
    assert (tape.gradient(discriminator, fake).numpy() > 0).all()
    assert (tape.gradient(generator, fake).numpy() < 0).all()


@every_loss
def test_losses_are_means_so_that_the_batch_size_does_not_scale_them(name):
    discriminator_loss, generator_loss = ADVERSARIAL[name].discriminator, ADVERSARIAL[name].generator
    real, fake = logits(REAL), logits(FAKE)
    np.testing.assert_allclose(
        discriminator_loss(tf.tile(real, [3]), tf.tile(fake, [5])), discriminator_loss(real, fake), rtol=1e-6
    )
    np.testing.assert_allclose(generator_loss(tf.tile(fake, [5])), generator_loss(fake), rtol=1e-6)


def test_the_names_are_those_that_the_registry_reads_from_the_constructor():
    annotation = zoo.describe("dcgan").parameters["loss"].annotation
    literal = next(kind for kind in typing.get_args(annotation) if typing.get_origin(kind) is typing.Literal)
    assert set(typing.get_args(literal)) == set(ADVERSARIAL) == set(CLOSED_FORMS)


@every_loss
def test_a_model_uses_the_loss_that_it_was_given(name):
    model = zoo.create("dcgan", (8, 8, 3), base_filters=4, latent_dim=4, loss=name)
    assert model.adversarial_loss is ADVERSARIAL[name]
    with pytest.raises(ValueError, match="`loss` must be one of .*hinge.*Received: 'hinges'"):
        zoo.create("dcgan", (8, 8, 3), loss="hinges")
