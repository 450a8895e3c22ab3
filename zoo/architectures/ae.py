"""Autoencoder, and a Gaussian over its codes to sample from (image-augmentation document)."""

import tensorflow as tf

from zoo import replicas
from zoo.autoencoding import Autoencoder
from zoo.recipe import Recipe
from zoo.registry import register

MOMENT_DECAY = 0.99  # of the moving moments of the codes


@register("ae")
class AE(Autoencoder):
    """Deterministic autoencoder: sharp reconstructions; samples from a Gaussian fitted to the codes of its images.

    The mean and covariance of the codes are moving averages over the training batches, kept with the weights; a latent
    is a draw from the Gaussian that has them.

    Input shape: images `[batch, side, side, channels]` in [-1, 1]; z `[batch, latent_dim]`.
    Output shape: images of the same shape.
    """

    recipes = {
        "default": Recipe(
            source="image-augmentation document",
            sizes=range(32, 513, 32),
            size=64,
            batch_size=64,
            epochs=100,
            g_learning_rate=1e-3,
            beta_1=0.9,
            hyperparameters={"latent_dim": 128},
        )
    }

    def __init__(self, image_shape, **model_options):
        super().__init__(image_shape, **model_options)
        d = self.latent_dim
        self.code_mean = self.add_weight(
            name="code_mean", shape=(d,), initializer="zeros", trainable=False, dtype="float32"
        )
        self.code_moment = self.add_weight(
            name="code_moment", shape=(d, d), initializer="identity", trainable=False, dtype="float32"
        )
        self.build_networks()

    def code(self, encoded):
        return encoded, {}

    def total_loss(self, reconstruction_loss, terms):
        return reconstruction_loss

    def latents(self, seeds, truncation=None):
        standard = super().latents(seeds, truncation)
        covariance = self.code_moment - self.code_mean[:, None] * self.code_mean[None, :]
        # The floor keeps the factorization real where the codes span fewer dimensions.
        floor = 1e-6 + 1e-4 * tf.linalg.trace(covariance) / self.latent_dim
        factor = tf.linalg.cholesky(covariance + floor * tf.eye(self.latent_dim))
        return self.code_mean + tf.linalg.matmul(standard, factor, transpose_b=True)

    def _after_update(self, z):
        z = tf.cast(z, tf.float32)
        step = tf.cast(self.step, tf.float32)
        decay = tf.minimum(MOMENT_DECAY, step / (1 + step))  # the first steps: a plain mean
        self.code_mean.assign(decay * self.code_mean + (1 - decay) * tf.reduce_mean(z, axis=0))
        moment = tf.linalg.matmul(z, z, transpose_a=True) / tf.cast(tf.shape(z)[0], tf.float32)
        self.code_moment.assign(decay * self.code_moment + (1 - decay) * moment)
        replicas.average_variables([self.code_mean, self.code_moment])
