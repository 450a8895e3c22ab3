"""Penalties, label noise and smoothing, instance noise, the updates of a step: against closed forms, and each on its own."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo import losses
from zoo.layers import Dropout

rng = np.random.default_rng(0)
DIRECTION = rng.normal(size=(4, 4, 3)).astype(np.float32)
REAL = tf.constant(rng.uniform(-1, 1, (5, 4, 4, 3)), tf.float32)
FAKE = tf.constant(rng.uniform(-1, 1, (5, 4, 4, 3)), tf.float32)


def linear(images):
    """A critic whose gradient is DIRECTION everywhere; three logits an image, of that mean."""
    score = tf.reduce_sum(images * DIRECTION, axis=(1, 2, 3))
    return tf.stack([score, score + 1, score - 1], axis=1)


def test_the_gradient_penalty_of_a_linear_critic_is_the_squared_distance_of_its_norm_from_1():
    expected = (np.linalg.norm(DIRECTION) - 1) ** 2
    penalty = losses.gradient_penalty(linear, REAL, FAKE, tf.constant(rng.uniform(size=5), tf.float32))
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)


def test_the_gradient_penalty_is_taken_at_the_mixture():
    mix = np.array([0.0, 0.25, 0.5, 0.75, 1.0], np.float32)
    squares = lambda images: tf.reduce_sum(tf.square(images), axis=(1, 2, 3))  # noqa: E731 (gradient 2 x)
    points = mix[:, None, None, None] * REAL + (1 - mix[:, None, None, None]) * FAKE
    expected = np.mean((2 * np.linalg.norm(points.numpy().reshape(5, -1), axis=1) - 1) ** 2)
    np.testing.assert_allclose(losses.gradient_penalty(squares, REAL, FAKE, tf.constant(mix)), expected, rtol=1e-5)


def test_r1_is_half_the_squared_gradient_at_real_images_over_all_their_sizes():
    np.testing.assert_allclose(losses.r1_penalty(linear, REAL), 0.5 * np.sum(DIRECTION**2), rtol=1e-5)

    def of_two(images):
        return tf.reduce_sum(images[0] * DIRECTION, axis=(1, 2, 3)) + 2 * tf.reduce_sum(images[1], axis=(1, 2, 3))

    small = REAL[:, :2, :2]
    expected = 0.5 * (np.sum(DIRECTION**2) + 4 * 12)
    np.testing.assert_allclose(losses.r1_penalty(of_two, (REAL, small)), expected, rtol=1e-5)


def test_penalties_have_a_gradient_for_the_weights_of_the_critic():
    weight = tf.Variable(DIRECTION)
    critic = lambda images: tf.reduce_sum(images * weight, axis=(1, 2, 3))  # noqa: E731
    with tf.GradientTape() as tape:
        penalty = losses.r1_penalty(critic, REAL)
    np.testing.assert_allclose(tape.gradient(penalty, weight), DIRECTION, rtol=1e-5)


def test_flipped_labels_exchange_the_logits_of_those_pairs():
    real, fake = tf.constant([1.0, 2.0, 3.0]), tf.constant([-1.0, -2.0, -3.0])
    flipped = losses.flip_labels(real, fake, tf.constant([False, True, False]))
    np.testing.assert_array_equal(flipped[0], [1, -2, 3])
    np.testing.assert_array_equal(flipped[1], [-1, 2, -3])
    several = losses.flip_labels(real[:, None] + [[0.0, 1.0]], fake[:, None] + [[0.0, 1.0]], tf.constant([True] * 3))
    np.testing.assert_array_equal(several[0], fake[:, None] + [[0.0, 1.0]])


def test_smoothing_is_the_cross_entropy_of_the_smoothed_target():
    real, fake = np.array([0.3, -2.0]), np.array([0.5, -1.0])
    p, q = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
    expected = -np.mean(0.9 * np.log(p) + 0.1 * np.log(1 - p)) - np.mean(np.log(1 - q))
    game = losses.ADVERSARIAL["non_saturating"]
    received = game.discriminator(tf.constant(real, tf.float32), tf.constant(fake, tf.float32), 0.1)
    np.testing.assert_allclose(received, expected, rtol=1e-6)


def test_smoothing_of_least_squares_has_the_gradient_of_the_smoothed_target():
    logits = tf.Variable([0.3, -2.0, 5.0])
    with tf.GradientTape() as tape:
        loss = losses.ADVERSARIAL["least_squares"].discriminator(logits, tf.zeros(3), 0.1)
    np.testing.assert_allclose(tape.gradient(loss, logits), (logits.numpy() - 0.9) / 3, rtol=1e-5)


# In a model.


def gan(**changes):
    keras.utils.set_random_seed(0)
    model = zoo.create("dcgan", (8, 8, 3), base_filters=4, latent_dim=4, dropout=0.0, **changes)
    model.compile(jit_compile=False)
    return model


def images_of_a_step(count=4):
    return tf.constant(np.random.default_rng(1).uniform(-1, 1, (count, 8, 8, 3)), tf.float32)


def first_logs(**changes):
    tf.config.run_functions_eagerly(True)
    try:
        return {name: float(value) for name, value in gan(**changes).train_step(images_of_a_step()).items()}
    finally:
        tf.config.run_functions_eagerly(False)


def test_a_penalty_is_logged_weighted_and_moves_the_gradient():
    plain, weak, strong = first_logs(), first_logs(r1_weight=1.0), first_logs(r1_weight=100.0)
    assert "r1_penalty" not in plain and weak["r1_penalty"] == strong["r1_penalty"] > 0
    assert weak["d_loss"] == plain["d_loss"], "the logged loss is that of the game alone"
    assert strong["d_gradient_norm"] > weak["d_gradient_norm"] != plain["d_gradient_norm"]


def test_wasserstein_has_its_penalty_unless_told_otherwise():
    assert first_logs(loss="wasserstein")["gradient_penalty"] > 0
    assert "gradient_penalty" not in first_logs(loss="wasserstein", gradient_penalty_weight=0.0)
    assert gan(loss="wasserstein").gradient_penalty_weight == 10 and gan().gradient_penalty_weight == 0


@pytest.mark.parametrize(
    "change",
    [
        {"label_smoothing": 0.2}, {"label_noise": 0.9}, {"instance_noise": 0.5}, {"r1_weight": 1.0}, {"generator_dropout": 0.5},
        {"gradient_penalty_weight": 1.0}, {"upsampling": "nearest"}, {"generator_activation": "relu"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_option_changes_the_step(change):
    assert first_logs(**change) != first_logs()


def test_instance_noise_is_gone_after_its_steps():
    model = gan(instance_noise=0.5, instance_noise_steps=10)
    images = images_of_a_step()
    deviations = []
    for step in (0, 5, 10, 20):
        model.step.assign(step)
        with model._scope(0):
            deviations.append(float(np.std(model.seen(images) - images)))
    np.testing.assert_allclose(deviations, [0.5, 0.25, 0, 0], rtol=0.1)


def test_generator_dropout_zeroes_only_in_training():
    model = gan(generator_dropout=0.5)
    rates = {layer.rate for layer in model.generator._flatten_layers() if isinstance(layer, Dropout)}
    assert rates == {0.5}
    z = tf.ones([2, 4])
    assert np.array_equal(model.generator(z, training=False), model.generator(z, training=False))


def test_pretraining_leaves_the_generator_and_its_optimizer_as_they_are():
    model = gan(pretraining_steps=2)
    tf.config.run_functions_eagerly(True)
    try:

        def state():
            everything = model.generator.variables + model.g_optimizer.variables
            return [np.asarray(keras.ops.convert_to_numpy(variable)).copy() for variable in everything]

        def trainable(network):
            return [keras.ops.convert_to_numpy(variable).copy() for variable in network.trainable_variables]

        weights, discriminator = trainable(model.generator), trainable(model.discriminator)
        for _ in range(2):
            model.train_step(images_of_a_step())
            assert all(np.array_equal(*pair) for pair in zip(weights, trainable(model.generator), strict=True))
        assert int(model.g_optimizer.iterations) == 0
        assert not any(
            np.array_equal(*pair) for pair in zip(discriminator, trainable(model.discriminator), strict=True)
        )
        before = state()
        model.train_step(images_of_a_step())
        assert int(model.g_optimizer.iterations) == 1
        assert not any(np.array_equal(*pair) for pair in zip(weights, trainable(model.generator), strict=True))
        assert len(before) == len(state())
    finally:
        tf.config.run_functions_eagerly(False)


def test_a_step_makes_the_asked_updates_of_each_network():
    model = gan(discriminator_steps=3, generator_steps=2)
    model.train_step(images_of_a_step(12))
    assert int(model.d_optimizer.iterations) == 3 and int(model.g_optimizer.iterations) == 2 and int(model.step) == 1


def test_the_generator_updates_of_a_step_see_different_noise():
    model = gan(generator_steps=2)
    first, second = (model._generator_function(4, tf.constant(update, tf.int64))[1]["g_loss"] for update in (0, 1))
    assert float(first) != float(second)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("label_smoothing", 1.0, r"`label_smoothing` must be in \[0, 1\)"),
        ("label_noise", -0.1, r"`label_noise` must be in \[0, 1\)"),
        ("generator_dropout", 1.5, r"`generator_dropout` must be in \[0, 1\)"),
        ("r1_weight", -1.0, "`r1_weight` must be 0 or more"),
        ("gradient_penalty_weight", -1.0, "`gradient_penalty_weight` must be 0 or more"),
        ("instance_noise", -1.0, "`instance_noise` must be 0 or more"),
        ("generator_steps", 0, "`generator_steps` must be at least 1"),
    ],
)
def test_impossible_values_are_named(argument, value, message):
    with pytest.raises(ValueError, match=message):
        gan(**{argument: value})
