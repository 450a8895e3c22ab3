"""DCGAN (Radford et al. 2016), in the two forms that small projects use.

`keras32` is the network of the Keras tutorials that the car-fronts document trained at 32 px: biases, a dense start
without batch norm, dropout before the logit. `torch64` is the PyTorch tutorial's, all strided convolutions, no biases,
weights drawn with deviation .02; above 64 px one more block a doubling, its width capped at 16 `base_filters` (doubling
on would need 537 million parameters in the first block at 1024 px).
"""

import keras
from keras import layers

from zoo.adversarial import GAN
from zoo.layers import Dropout
from zoo.recipe import Recipe
from zoo.registry import register


@register("dcgan")
class DCGAN(GAN):
    """Deep convolutional GAN: strided convolutions with batch norm, the usual first GAN.

    Args:
        base_filters: Width; the sources' networks have 64.
        dropout: Share of the features dropped before the logit (`keras32` only).

    Input shape: z `[batch, latent_dim]`.
    Output shape: images `[batch, side, side, channels]` in [-1, 1].

    Reference:
        https://arxiv.org/abs/1511.06434
    """

    recipes = {
        "keras32": Recipe(
            source="car-fronts document (Keras tutorial network)",
            sizes=(8, 16, 32),
            size=32,
            batch_size=32,
            steps=20_000,
            beta_1=0.5,
        ),
        "torch64": Recipe(
            source="Radford et al. 2016, section 4; cars and bedrooms documents (PyTorch tutorial network)",
            sizes=(64, 128, 256, 512, 1024),
            size=64,
            batch_size=128,
            steps=20_000,
            beta_1=0.5,
        ),
    }

    def __init__(self, image_shape, *, base_filters: int = 64, dropout: float = 0.4, **gan_options):
        super().__init__(image_shape, **gan_options)
        self.base_filters = base_filters
        self.dropout = dropout
        self.build_networks()

    def build_generator(self):
        network = KerasGenerator if self.variant == "keras32" else TorchGenerator
        return network(self.image_shape, self.base_filters, name="generator")

    def build_discriminator(self):
        if self.variant == "keras32":
            return KerasDiscriminator(self.image_shape, self.base_filters, self.dropout, name="discriminator")
        return TorchDiscriminator(self.image_shape, self.base_filters, name="discriminator")


class KerasGenerator(keras.Model):
    """z -> 4x4 dense start -> one transposed convolution a doubling -> image."""

    def __init__(self, image_shape, base_filters, **kwargs):
        super().__init__(**kwargs)
        side, _, channels = image_shape
        self.start = keras.Sequential(
            [
                layers.Dense(4 * 4 * 4 * base_filters),
                layers.LeakyReLU(negative_slope=0.2),
                layers.Reshape((4, 4, 4 * base_filters)),
            ]
        )
        self.blocks = [
            keras.Sequential(
                [
                    layers.Conv2DTranspose(2 * base_filters, 4, strides=2, padding="same"),
                    layers.BatchNormalization(),
                    layers.LeakyReLU(negative_slope=0.2),
                ]
            )
            for _ in range(_doublings(side))
        ]
        self.to_image = layers.Conv2D(channels, 3, padding="same")
        self.tanh = layers.Activation("tanh", dtype="float32")

    def call(self, z, training=False):
        x = self.start(z)
        for block in self.blocks:
            x = block(x, training=training)
        return self.tanh(self.to_image(x))


class KerasDiscriminator(keras.Model):
    """Image -> one strided convolution a halving, batch norm throughout -> 4x4 -> dropout -> logit."""

    def __init__(self, image_shape, base_filters, dropout, **kwargs):
        super().__init__(**kwargs)
        halvings = _doublings(image_shape[0])
        widths = [2 * base_filters] * (halvings - 1) + [4 * base_filters]
        self.blocks = [_convolution(base_filters, 3, 1)] + [_convolution(width, 4, 2) for width in widths]
        self.flatten = layers.Flatten()
        self.dropout = Dropout(dropout)
        self.logit = layers.Dense(1, dtype="float32")

    def call(self, images, training=False):
        x = images
        for block in self.blocks:
            x = block(x, training=training)
        x = self.dropout(self.flatten(x), training=training)
        return self.logit(x)[:, 0]


def _convolution(filters, kernel_size, strides):
    return keras.Sequential(
        [
            layers.Conv2D(filters, kernel_size, strides=strides, padding="same"),
            layers.BatchNormalization(),
            layers.LeakyReLU(negative_slope=0.2),
        ]
    )


class TorchGenerator(keras.Model):
    """z as a 1x1 map -> transposed convolutions, width halving -> image."""

    def __init__(self, image_shape, base_filters, **kwargs):
        super().__init__(**kwargs)
        side, _, channels = image_shape
        widths = [_width(base_filters, power) for power in reversed(range(_doublings(side)))]
        self.as_map = layers.Reshape((1, 1, -1))
        self.blocks = [_torch_block(layers.Conv2DTranspose, widths[0], 1, "valid", layers.ReLU())]
        self.blocks += [_torch_block(layers.Conv2DTranspose, width, 2, "same", layers.ReLU()) for width in widths[1:]]
        self.to_image = layers.Conv2DTranspose(
            channels, 4, strides=2, padding="same", use_bias=False, kernel_initializer=_normal()
        )
        self.tanh = layers.Activation("tanh", dtype="float32")

    def call(self, z, training=False):
        x = self.as_map(z)
        for block in self.blocks:
            x = block(x, training=training)
        return self.tanh(self.to_image(x))


class TorchDiscriminator(keras.Model):
    """Image -> strided convolutions, width doubling, batch norm but on the first -> 4x4 -> logit."""

    def __init__(self, image_shape, base_filters, **kwargs):
        super().__init__(**kwargs)
        widths = [_width(base_filters, power) for power in range(_doublings(image_shape[0]))]
        self.blocks = [
            _torch_block(layers.Conv2D, width, 2, "same", layers.LeakyReLU(negative_slope=0.2), batch_norm=index > 0)
            for index, width in enumerate(widths)
        ]
        self.logit = layers.Conv2D(1, 4, use_bias=False, kernel_initializer=_normal(), dtype="float32")

    def call(self, images, training=False):
        x = images
        for block in self.blocks:
            x = block(x, training=training)
        return self.logit(x)[:, 0, 0, 0]


def _torch_block(convolution, filters, strides, padding, activation, batch_norm=True):
    block = [convolution(filters, 4, strides=strides, padding=padding, use_bias=False, kernel_initializer=_normal())]
    if batch_norm:
        gamma = keras.initializers.RandomNormal(1.0, 0.02)
        block.append(layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma))
    return keras.Sequential([*block, activation])


def _doublings(side):
    """Doublings from a 4x4 map to `side`."""
    return (side // 4).bit_length() - 1


def _width(base_filters, power):
    return base_filters * min(2**power, 16)


def _normal():
    return keras.initializers.RandomNormal(0.0, 0.02)
