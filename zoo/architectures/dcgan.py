"""DCGAN (Radford et al. 2016), in the two forms that small projects use, and with an autoencoder's decoder.

`keras32` is the network of the Keras tutorials that the car-fronts document trained at 32 px: biases, a dense start
without batch norm, dropout before the logit. `torch64` is the PyTorch tutorial's, all strided convolutions, no biases,
weights drawn with deviation .02; above 64 px one more block a doubling, its width capped at 16 `base_filters` (doubling
on would need 537 million parameters in the first block at 1024 px). `decoder` has the decoder of `vae` and `ae` for its
generator, so that it can start from one that was trained (`--init-from`), and the discriminator of `torch64`.
"""

from typing import Literal

import keras
from keras import layers

from zoo.adversarial import GAN
from zoo.autoencoding import Decoder
from zoo.layers import BatchNormalization, Dropout, LabelProjection, Stack, UpsamplingConv2D, batch_norm
from zoo.recipe import Recipe
from zoo.registry import register


@register("dcgan")
class DCGAN(GAN):
    """Deep convolutional GAN: strided convolutions with batch norm, the usual first GAN.

    Args:
        base_filters: Width; the sources' networks have 64.
        dropout: Share of the features dropped before the logit (`keras32` only).
        upsampling: `transposed` convolutions, or `nearest` neighbours followed by a convolution, against checkerboards
            (not of `decoder`).
        generator_activation: `None` is the source's: `leaky_relu` in `keras32`, `relu` in `torch64`.

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
        "decoder": Recipe(
            source="the decoder of the indoor-scenes document's VAE, trained as torch64",
            sizes=(32, 64, 128, 256, 512),
            size=64,
            batch_size=64,
            steps=20_000,
            beta_1=0.5,
            hyperparameters={"latent_dim": 256},
        ),
    }

    def __init__(
        self,
        image_shape,
        *,
        base_filters: int = 64,
        dropout: float = 0.4,
        upsampling: Literal["transposed", "nearest"] = "transposed",
        generator_activation: Literal["relu", "leaky_relu"] | None = None,
        **gan_options,
    ):
        super().__init__(image_shape, **gan_options)
        if upsampling not in ("transposed", "nearest"):
            raise ValueError(f"`upsampling` must be transposed or nearest. Received: {upsampling!r}")
        if generator_activation not in (None, "relu", "leaky_relu"):
            raise ValueError(f"`generator_activation` must be relu or leaky_relu. Received: {generator_activation!r}")
        self.base_filters = base_filters
        self.dropout = dropout
        self.upsampling = upsampling
        usual = "leaky_relu" if self.variant == "keras32" else "relu"
        self.generator_activation = generator_activation or usual
        self.build_networks()

    def build_generator(self):
        if self.variant == "decoder":
            # Half the width: 32 in the autoencoders' source where the GANs' have 64.
            width = max(1, self.base_filters // 2)
            return Decoder(self.image_shape, width, self.num_classes, self.generator_dropout, name="generator")
        network = KerasGenerator if self.variant == "keras32" else TorchGenerator
        return network(
            self.image_shape, self.base_filters, self.upsampling, self.generator_activation, self.num_classes,
            self.generator_dropout, name="generator",
        )  # fmt: skip

    def build_discriminator(self):
        if self.variant == "keras32":
            return KerasDiscriminator(
                self.image_shape, self.base_filters, self.dropout, self.num_classes, name="discriminator"
            )
        return TorchDiscriminator(self.image_shape, self.base_filters, self.num_classes, name="discriminator")


class KerasGenerator(keras.Model):
    """z -> 4x4 dense start -> one transposed convolution a doubling -> image."""

    def __init__(self, image_shape, base_filters, upsampling, activation, num_classes, dropout, **kwargs):
        super().__init__(**kwargs)
        side, _, channels = image_shape
        self.start = keras.Sequential(
            [
                layers.Dense(4 * 4 * 4 * base_filters),
                _activation(activation),
                layers.Reshape((4, 4, 4 * base_filters)),
            ]
        )
        self.blocks = [
            Stack(
                [*_upsampled(upsampling, 2 * base_filters), batch_norm(num_classes), _activation(activation),
                 Dropout(dropout)]
            )
            for _ in range(_doublings(side))
        ]  # fmt: skip
        self.to_image = layers.Conv2D(channels, 3, padding="same")
        self.tanh = layers.Activation("tanh", dtype="float32")

    def call(self, z, labels=None, training=False):
        x = self.start(z)
        for block in self.blocks:
            x = block(x, labels=labels, training=training)
        return self.tanh(self.to_image(x))


class KerasDiscriminator(keras.Model):
    """Image -> one strided convolution a halving, batch norm throughout -> 4x4 -> dropout -> logit."""

    def __init__(self, image_shape, base_filters, dropout, num_classes, **kwargs):
        super().__init__(**kwargs)
        halvings = _doublings(image_shape[0])
        widths = [2 * base_filters] * (halvings - 1) + [4 * base_filters]
        self.blocks = [_convolution(base_filters, 3, 1)] + [_convolution(width, 4, 2) for width in widths]
        self.flatten = layers.Flatten()
        self.dropout = Dropout(dropout)
        self.logit = layers.Dense(1, dtype="float32")
        self.projection = LabelProjection(num_classes, spectral_norm=False) if num_classes else None

    def call(self, images, labels=None, training=False):
        x = images
        for block in self.blocks:
            x = block(x, training=training)
        logits = self.logit(self.dropout(self.flatten(x), training=training))[:, 0]
        return logits if labels is None else logits + self.projection(x, labels)


def _convolution(filters, kernel_size, strides):
    return keras.Sequential(
        [
            layers.Conv2D(filters, kernel_size, strides=strides, padding="same"),
            BatchNormalization(),
            layers.LeakyReLU(negative_slope=0.2),
        ]
    )


class TorchGenerator(keras.Model):
    """z as a 1x1 map -> transposed convolutions, width halving -> image."""

    def __init__(self, image_shape, base_filters, upsampling, activation, num_classes, dropout, **kwargs):
        super().__init__(**kwargs)
        side, _, channels = image_shape
        widths = [_width(base_filters, power) for power in reversed(range(_doublings(side)))]
        self.as_map = layers.Reshape((1, 1, -1))

        def block(convolution):
            norm = batch_norm(num_classes, **_torch_norm())
            return Stack([*convolution, norm, _activation(activation), Dropout(dropout)])

        first = layers.Conv2DTranspose(widths[0], 4, padding="valid", **_torch_convolution())
        self.blocks = [block([first])]
        self.blocks += [block(_upsampled(upsampling, width, **_torch_convolution())) for width in widths[1:]]
        self.to_image = Stack(_upsampled(upsampling, channels, **_torch_convolution()))
        self.tanh = layers.Activation("tanh", dtype="float32")

    def call(self, z, labels=None, training=False):
        x = self.as_map(z)
        for block in self.blocks:
            x = block(x, labels=labels, training=training)
        return self.tanh(self.to_image(x))


class TorchDiscriminator(keras.Model):
    """Image -> strided convolutions, width doubling, batch norm but on the first -> 4x4 -> logit."""

    def __init__(self, image_shape, base_filters, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.blocks = []
        for power in range(_doublings(image_shape[0])):
            convolution = layers.Conv2D(
                _width(base_filters, power), 4, strides=2, padding="same", **_torch_convolution()
            )
            norm = [BatchNormalization(**_torch_norm())] if power > 0 else []
            self.blocks.append(keras.Sequential([convolution, *norm, layers.LeakyReLU(negative_slope=0.2)]))
        self.logit = layers.Conv2D(1, 4, **_torch_convolution(), dtype="float32")
        self.projection = LabelProjection(num_classes, spectral_norm=False) if num_classes else None

    def call(self, images, labels=None, training=False):
        x = images
        for block in self.blocks:
            x = block(x, training=training)
        logits = self.logit(x)[:, 0, 0, 0]
        return logits if labels is None else logits + self.projection(x, labels)


def _upsampled(upsampling, filters, **convolution):
    """Returns the layers that double the side of a map and give it `filters` channels."""
    if upsampling == "transposed":
        return [layers.Conv2DTranspose(filters, 4, strides=2, padding="same", **convolution)]
    return [UpsamplingConv2D(filters, **convolution)]


def _activation(name):
    return layers.ReLU() if name == "relu" else layers.LeakyReLU(negative_slope=0.2)


def _torch_convolution():
    return {"use_bias": False, "kernel_initializer": keras.initializers.RandomNormal(0.0, 0.02)}


def _torch_norm():
    gamma = keras.initializers.RandomNormal(1.0, 0.02)
    return {"momentum": 0.9, "epsilon": 1e-5, "gamma_initializer": gamma}


def _doublings(side):
    """Doublings from a 4x4 map to `side`."""
    return (side // 4).bit_length() - 1


def _width(base_filters, power):
    return base_filters * min(2**power, 16)
