"""Variational autoencoder (Kingma and Welling 2014) as the indoor-scenes document built it, in [-1, 1] throughout.

The document fed images in [0, 1] to a decoder that ends in tanh. Its fixed KL weight of .00025 amounts, with a mean squared
error that is a mean over all pixels, to a beta of 3.07 at 64 px and 49.2 at 256 px: here the weight is that beta.
"""

import tensorflow as tf

from zoo import randomness
from zoo.autoencoding import Autoencoder
from zoo.recipe import Recipe
from zoo.registry import register


@register("vae")
class VAE(Autoencoder):
    """Variational autoencoder: blurry but stable, encodes as well as it samples.

    Args:
        kl_weight: Beta (Higgins et al. 2017, eq. 4): the loss is the mean squared error + beta / (h w c) * KL, with the
            KL summed over the latent and averaged over the batch. 1 is the evidence bound of a unit-variance decoder,
            up to a factor of 2.

    Input shape: images `[batch, side, side, channels]` in [-1, 1]; z `[batch, latent_dim]`.
    Output shape: images of the same shape.

    Reference:
        https://arxiv.org/abs/1312.6114
    """

    recipes = {
        "default": Recipe(
            source="indoor-scenes document, 64 px",
            sizes=range(32, 513, 32),
            size=64,
            batch_size=64,
            epochs=100,
            g_learning_rate=5e-3,
            beta_1=0.9,
            learning_rate_decay="exponential",
            decay_rate=0.95,
            hyperparameters={"latent_dim": 256},
        )
    }
    num_heads = 2

    def __init__(self, image_shape, *, kl_weight: float = 3.07, **model_options):
        super().__init__(image_shape, **model_options)
        if kl_weight < 0:
            raise ValueError(f"`kl_weight` must be 0 or more. Received: {kl_weight}")
        self.kl_weight = kl_weight
        self.build_networks()

    def code(self, encoded):
        z_mean, z_log_var = tf.split(encoded, 2, axis=1)
        # The bound keeps exp finite while the encoder is still wild.
        z_log_var = tf.clip_by_value(z_log_var, -30.0, 20.0)
        z = z_mean + tf.exp(0.5 * z_log_var) * randomness.normal(z_mean.shape)
        # Kingma and Welling 2014, appendix B.
        kl = 0.5 * tf.reduce_sum(tf.square(z_mean) + tf.exp(z_log_var) - 1.0 - z_log_var, axis=1)
        return z, {"kl_loss": tf.reduce_mean(kl)}

    def total_loss(self, reconstruction_loss, terms):
        height, width, channels = self.image_shape
        return reconstruction_loss + self.kl_weight / (height * width * channels) * terms["kl_loss"]
