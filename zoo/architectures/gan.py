"""The first GAN (Goodfellow et al. 2014) as the indoor-scenes document built it: multilayer perceptrons at 28 px.

The document's batch norm had its momentum passed as epsilon, and its generator stayed in inference mode after the first
preview; here the momentum is .8 and every training pass is in training mode.
"""

import keras
from keras import layers

from zoo.adversarial import GAN
from zoo.layers import Dropout, LabelProjection, Stack, batch_norm
from zoo.recipe import Recipe
from zoo.registry import register


@register("gan")
class MLPGAN(GAN):
    """Fully connected GAN: the smallest there is, good for a first look and for memorizing a handful of images.

    Args:
        base_filters: Width of the generator's first layer; the discriminator's are 8, 4 and 2 times as wide.

    Input shape: z `[batch, latent_dim]`.
    Output shape: images `[batch, side, side, channels]` in [-1, 1].

    Reference:
        https://arxiv.org/abs/1406.2661
    """

    recipes = {
        "default": Recipe(
            source="indoor-scenes document",
            sizes=range(8, 129),
            size=28,
            batch_size=128,
            epochs=50,
            weight_decay=0.01,
            hyperparameters={"loss": "non_saturating", "latent_dim": 50},
        )
    }

    def __init__(self, image_shape, *, base_filters: int = 128, **gan_options):
        super().__init__(image_shape, **gan_options)
        self.base_filters = base_filters
        self.build_networks()

    def build_generator(self):
        return Generator(
            self.image_shape, self.base_filters, self.num_classes, self.generator_dropout, name="generator"
        )

    def build_discriminator(self):
        return Discriminator(self.base_filters, self.num_classes, name="discriminator")


class Generator(keras.Model):
    """z -> dense layers of doubling width with batch norm -> image."""

    def __init__(self, image_shape, base_filters, num_classes, dropout, **kwargs):
        super().__init__(**kwargs)
        rows = []
        for width in (1, 2, 4):
            rows += [
                layers.Dense(width * base_filters, use_bias=False),
                batch_norm(num_classes, momentum=0.8),
                layers.LeakyReLU(negative_slope=0.25),
                Dropout(dropout),
            ]
        self.hidden = Stack(rows)
        side, _, channels = image_shape
        self.pixels = layers.Dense(side * side * channels, use_bias=False)
        self.as_image = layers.Reshape(image_shape)
        self.tanh = layers.Activation("tanh", dtype="float32")

    def call(self, z, labels=None, training=False):
        return self.tanh(self.as_image(self.pixels(self.hidden(z, labels=labels, training=training))))


class Discriminator(keras.Model):
    """Image -> dense layers of halving width -> logit."""

    def __init__(self, base_filters, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.Sequential([layers.Flatten()])
        for width in (8, 4, 2):
            self.hidden.add(layers.Dense(width * base_filters))
            self.hidden.add(layers.LeakyReLU(negative_slope=0.25))
        self.logit = layers.Dense(1, dtype="float32")
        self.projection = LabelProjection(num_classes, spectral_norm=False) if num_classes else None

    def call(self, images, labels=None, training=False):
        x = self.hidden(images)
        logits = self.logit(x)[:, 0]
        return logits if labels is None else logits + self.projection(x, labels)
