"""`compile(accumulate=K)`: the images of an update in K parts, and the update of the whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import zoo
from zoo import replicas
from zoo.adversarial import GAN
from zoo.recipe import Recipe

SIDE, BATCH = 8, 8


class NoBatchNorm(GAN):
    """Dense networks without batch norm, whose statistics would be those of a part."""

    recipes = {"default": Recipe(source="this test", sizes=(SIDE,), size=SIDE, hyperparameters={"latent_dim": 4})}

    def __init__(self, image_shape, **options):
        super().__init__(image_shape, **options)
        self.part_sizes = []
        self.build_networks()

    def build_generator(self):
        return Dense(self.image_shape, tf.tanh)

    def build_discriminator(self):
        return Dense((1,), tf.identity)

    def discriminator_objective(self, real_images, fake_images, labels=None):
        self.part_sizes.append(real_images.shape[0])
        return super().discriminator_objective(real_images, fake_images, labels)


class Dense(keras.Model):
    def __init__(self, shape, activation):
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(int(np.prod(shape)))
        self.reshape, self.activation = layers.Reshape(shape), activation

    def call(self, x, training=False):
        x = self.reshape(self.dense(self.flatten(x)))
        x = self.activation(x)
        return x if len(x.shape) == 4 else x[:, 0]


def step(accumulate, num_updates=2):
    keras.utils.set_random_seed(0)
    model = NoBatchNorm(
        (SIDE, SIDE, 3), discriminator_steps=num_updates, augment="color,translation,cutout", instance_noise=0.3,
        label_noise=0.3, r1_weight=0.5,
    )  # fmt: skip
    model.compile(keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1), jit_compile=False, accumulate=accumulate)
    images = np.random.default_rng(0).uniform(-1, 1, (num_updates * BATCH, SIDE, SIDE, 3)).astype(np.float32)
    logs = model.train_step(tf.constant(images))
    weights = [np.asarray(each) for each in model.discriminator.weights + model.generator.weights]
    return model, {name: float(value) for name, value in logs.items()}, weights


@pytest.mark.parametrize("accumulate", [2, 8])
def test_parts_make_the_update_of_the_whole(accumulate):
    whole, logs, expected = step(1)
    parts, found_logs, found = step(accumulate)
    assert set(whole.part_sizes) == {BATCH} and set(parts.part_sizes) == {BATCH // accumulate}
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
    for name in ("d_loss", "g_loss", "d_real_accuracy", "r1_penalty"):
        assert found_logs[name] == pytest.approx(logs[name], rel=1e-4), name


def test_the_codes_of_all_parts_are_returned():
    rows = tf.reshape(tf.range(8.0), [4, 2])
    gradients, logs, codes = replicas.accumulated(
        lambda part, number: ([tf.reduce_sum(part)], {"loss": tf.reduce_mean(part)}, 2 * part), (rows,), 2
    )
    assert float(gradients[0]) == 28 and float(logs["loss"]) == 3.5
    np.testing.assert_array_equal(codes, 2 * rows)


def test_a_batch_that_cannot_be_parted_is_refused():
    model = zoo.create("dcgan", (8, 8, 3), base_filters=2)
    model.compile(jit_compile=False, accumulate=3)
    with pytest.raises(ValueError, match="accumulate=3. Received: a batch of 8"):
        model.train_step(tf.zeros([8, 8, 8, 3]))
