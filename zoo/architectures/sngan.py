"""SN-GAN (Miyato et al. 2018): a discriminator whose every layer has spectral norm 1.

`cnn` is the paper's table 3 (the authors' released code has a wider discriminator of 5,860,865 parameters at 32 px; this
is the paper's). `resnet` is table 4, with the authors' CIFAR-10 FID for reference: 21.7 in the paper, 16.77 measured on
50k/50k samples, 23.90 on 10k/5k. `dense_head` is the network of the landscape-paintings document: upsampling and
convolution in the generator; batch norm, dropout and a dense layer of 1024 in the discriminator. That document's text
asks for spectral norm and its code has none: this has it.
"""

from typing import Literal

import keras
from keras import layers, ops

from zoo.adversarial import GAN
from zoo.layers import (
    BatchNormalization,
    Dropout,
    LabelProjection,
    SpectralConv2D,
    SpectralDense,
    Stack,
    UpsamplingConv2D,
    batch_norm,
)
from zoo.recipe import Recipe
from zoo.registry import register


@register("sngan")
class SNGAN(GAN):
    """Spectrally normalized GAN: a well-behaved discriminator, the best first choice on small sets.

    Args:
        base_filters: Width; the paper's networks have 64 (`cnn`, `dense_head`) and, at 32 px, 256 in the generator
            and 128 in the discriminator (`resnet`), which `base_filters=64` stands for as well.
        head_pooling: What comes before the dense layer of 1024 (`dense_head` only). The document flattened: 134 of its
            137 million parameters at 128 px. `average` pools.
        dropout: Share of the features dropped after each block of the discriminator (`dense_head` only).

    Input shape: z `[batch, latent_dim]`.
    Output shape: images `[batch, side, side, channels]` in [-1, 1].

    Reference:
        https://arxiv.org/abs/1802.05957
    """

    recipes = {
        "cnn": Recipe(
            source="Miyato et al. 2018, table 3 and section 4.1",
            sizes=range(16, 513, 8),
            size=32,
            batch_size=64,
            steps=50_000,
            beta_1=0.5,
            hyperparameters={"loss": "non_saturating", "latent_dim": 128},
        ),
        "resnet": Recipe(
            source="Miyato et al. 2018, table 4 and section 4.1 (setting F with linear decay)",
            sizes=(32, 48, 64, 128),
            size=32,
            batch_size=64,
            steps=50_000,
            beta_1=0.0,
            beta_2=0.9,
            learning_rate_decay="linear",
            hyperparameters={"loss": "hinge", "discriminator_steps": 5, "latent_dim": 128},
        ),
        "dense_head": Recipe(
            source="landscape-paintings document",
            sizes=range(16, 513, 8),
            size=128,
            batch_size=15,
            epochs=200,
            g_learning_rate=1e-4,
            d_learning_rate=1e-4,
            beta_1=0.5,
            hyperparameters={"loss": "non_saturating", "latent_dim": 100},
        ),
    }

    def __init__(
        self,
        image_shape,
        *,
        variant: Literal["cnn", "resnet", "dense_head"] | None = None,
        base_filters: int = 64,
        head_pooling: Literal["average", "flatten"] = "average",
        dropout: float = 0.25,
        **gan_options,
    ):
        super().__init__(image_shape, variant=variant, **gan_options)
        if head_pooling not in ("average", "flatten"):
            raise ValueError(f"`head_pooling` must be average or flatten. Received: {head_pooling!r}")
        self.base_filters = base_filters
        self.head_pooling = head_pooling
        self.dropout = dropout
        self.build_networks()

    def build_generator(self):
        network = {"cnn": CNNGenerator, "resnet": ResidualGenerator, "dense_head": UpsamplingGenerator}[self.variant]
        return network(self.image_shape, self.base_filters, self.num_classes, self.generator_dropout, name="generator")

    def build_discriminator(self):
        if self.variant == "cnn":
            return CNNDiscriminator(self.base_filters, self.num_classes, name="discriminator")
        if self.variant == "resnet":
            return ResidualDiscriminator(self.image_shape, self.base_filters, self.num_classes, name="discriminator")
        return DenseHeadDiscriminator(
            self.base_filters, self.head_pooling, self.dropout, self.num_classes, name="discriminator"
        )


class CNNGenerator(keras.Model):
    """Table 3, left: dense start at an eighth of the side, three transposed convolutions."""

    def __init__(self, image_shape, base_filters, num_classes, dropout, **kwargs):
        super().__init__(**kwargs)
        side, _, channels = image_shape
        self.start = self.make_start(side // 8, 8 * base_filters)
        self.blocks = [
            Stack([*self.make_block(width * base_filters, num_classes), Dropout(dropout)]) for width in (4, 2, 1)
        ]
        self.to_image = layers.Conv2D(channels, 3, padding="same")
        self.tanh = layers.Activation("tanh", dtype="float32")

    def make_start(self, side, filters):
        return _dense_start(side, filters)

    def make_block(self, filters, num_classes):
        return [
            layers.Conv2DTranspose(filters, 4, strides=2, padding="same"),
            batch_norm(num_classes, momentum=0.9),
            layers.ReLU(),
        ]

    def call(self, z, labels=None, training=False):
        x = self.start(z)
        for block in self.blocks:
            x = block(x, labels=labels, training=training)
        return self.tanh(self.to_image(x))


class UpsamplingGenerator(CNNGenerator):
    """The paintings document's: ReLU after the dense start, and upsampling with convolution for the transposed one."""

    def make_start(self, side, filters):
        return keras.Sequential([_dense_start(side, filters), layers.ReLU()])

    def make_block(self, filters, num_classes):
        return [
            layers.UpSampling2D(2),
            layers.Conv2D(filters, 4, padding="same"),
            batch_norm(num_classes, momentum=0.8),
            layers.ReLU(),
        ]


# (width, kernel size, strides) of the convolutions of table 3, right, by block.
_TABLE_3 = (((1, 3, 1), (1, 4, 2)), ((2, 3, 1), (2, 4, 2)), ((4, 3, 1), (4, 4, 2)), ((8, 3, 1),))


class CNNDiscriminator(keras.Model):
    """Table 3, right: seven convolutions, LeakyReLU .1, one dense logit, spectral norm on all."""

    def __init__(self, base_filters, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.convolutions = [
            SpectralConv2D(width * base_filters, kernel_size, strides=strides, padding="same")
            for block in _TABLE_3
            for width, kernel_size, strides in block
        ]
        self.activation = layers.LeakyReLU(negative_slope=0.1)
        self.flatten = layers.Flatten()
        self.logit = SpectralDense(1, dtype="float32")
        self.projection = LabelProjection(num_classes) if num_classes else None

    def call(self, images, labels=None, training=False):
        x = images
        for convolution in self.convolutions:
            x = self.activation(convolution(x))
        logits = self.logit(self.flatten(x))[:, 0]
        return logits if labels is None else logits + self.projection(x, labels)


class DenseHeadDiscriminator(keras.Model):
    """The paintings document's: table 3 with batch norm and dropout, then a dense layer of 1024."""

    def __init__(self, base_filters, head_pooling, dropout, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.blocks = []
        for block in _TABLE_3:
            rows = []
            for width, kernel_size, strides in block:
                rows += [
                    SpectralConv2D(width * base_filters, kernel_size, strides=strides, padding="same"),
                    BatchNormalization(momentum=0.8),
                    layers.LeakyReLU(negative_slope=0.3),
                ]
            self.blocks.append(keras.Sequential([*rows, Dropout(dropout)]))
        self.pool = layers.GlobalAveragePooling2D() if head_pooling == "average" else layers.Flatten()
        self.head = SpectralDense(1024)
        self.activation = layers.LeakyReLU(negative_slope=0.3)
        self.logit = SpectralDense(1, dtype="float32")
        self.projection = LabelProjection(num_classes) if num_classes else None

    def call(self, images, labels=None, training=False):
        x = images
        for block in self.blocks:
            x = block(x, training=training)
        x = self.activation(self.head(self.pool(x)))
        logits = self.logit(x)[:, 0]
        return logits if labels is None else logits + self.projection(x, labels)


class ResidualGenerator(keras.Model):
    """Table 4, left: residual blocks that upsample by nearest neighbour."""

    def __init__(self, image_shape, base_filters, num_classes, dropout, **kwargs):
        super().__init__(**kwargs)
        side, _, channels = image_shape
        start_side, start_width, widths = {
            32: (4, 4, (4, 4, 4)),
            48: (6, 8, (4, 2, 1)),
            64: (4, 16, (8, 4, 2, 1)),
            128: (4, 16, (16, 8, 4, 2, 1)),
        }[side]
        self.start = _dense_start(start_side, start_width * base_filters)
        self.blocks = [UpBlock(width * base_filters, num_classes, dropout) for width in widths]
        self.last = Stack([batch_norm(num_classes, momentum=0.9), layers.ReLU()])
        self.to_image = layers.Conv2D(channels, 3, padding="same", kernel_initializer="glorot_uniform")
        self.tanh = layers.Activation("tanh", dtype="float32")

    def call(self, z, labels=None, training=False):
        x = self.start(z)
        for block in self.blocks:
            x = block(x, labels=labels, training=training)
        return self.tanh(self.to_image(self.last(x, labels=labels, training=training)))


class UpBlock(keras.layers.Layer):
    """BN, ReLU, nearest x2, conv3, BN, ReLU, conv3, beside a shortcut of nearest x2 and conv1."""

    def __init__(self, filters, num_classes, dropout, **kwargs):
        super().__init__(**kwargs)

        doubling = UpsamplingConv2D(filters, kernel_initializer=_residual_initializer())
        convolution = layers.Conv2D(filters, 3, padding="same", kernel_initializer=_residual_initializer())
        self.residual = Stack(
            [
                batch_norm(num_classes, momentum=0.9), layers.ReLU(), doubling,
                batch_norm(num_classes, momentum=0.9), layers.ReLU(), convolution, Dropout(dropout),
            ]
        )  # fmt: skip
        self.shortcut = layers.Conv2D(filters, 1)
        self.upsample = layers.UpSampling2D(2)

    def call(self, x, labels=None, training=False):
        # A 1x1 convolution of the small map upsampled is that of the upsampled map, at a quarter of the work.
        return self.residual(x, labels=labels, training=training) + self.upsample(self.shortcut(x))


class ResidualDiscriminator(keras.Model):
    """Table 4, right: residual blocks without batch norm, global sum pooling, one dense logit without bias."""

    def __init__(self, image_shape, base_filters, num_classes, **kwargs):
        super().__init__(**kwargs)
        # (width, whether the block halves the side)
        table = {
            32: ((2, True), (2, True), (2, False), (2, False)),
            48: ((1, True), (2, True), (4, True), (8, True), (16, False)),
            64: ((1, True), (2, True), (4, True), (8, True), (16, True)),
            128: ((1, True), (2, True), (4, True), (8, True), (16, True), (16, False)),
        }[image_shape[0]]
        widths = [image_shape[2]] + [width * base_filters for width, _ in table]
        self.blocks = [
            DownBlock(
                widths[index + 1],
                downsample,
                first=index == 0,
                project=downsample or widths[index] != widths[index + 1],
            )
            for index, (_, downsample) in enumerate(table)
        ]
        self.logit = SpectralDense(1, use_bias=False, dtype="float32")
        self.projection = LabelProjection(num_classes) if num_classes else None

    def call(self, images, labels=None, training=False):
        x = images
        for block in self.blocks:
            x = block(x)
        x = ops.sum(ops.relu(x), axis=(1, 2))
        logits = self.logit(x)[:, 0]
        return logits if labels is None else logits + self.projection(x, labels)


class DownBlock(keras.layers.Layer):
    """[ReLU,] conv3, ReLU, conv3 [, average pool] beside a shortcut of conv1 and pool; the first has no ReLU before."""

    def __init__(self, filters, downsample, first, project, **kwargs):
        super().__init__(**kwargs)
        self.starts_with_relu = not first
        self.first = SpectralConv2D(filters, 3, padding="same", kernel_initializer=_residual_initializer())
        self.second = SpectralConv2D(filters, 3, padding="same", kernel_initializer=_residual_initializer())
        self.shortcut = SpectralConv2D(filters, 1) if project else None
        self.pool = layers.AveragePooling2D(2) if downsample else None

    def call(self, x):
        residual = ops.relu(x) if self.starts_with_relu else x
        residual = self.second(ops.relu(self.first(residual)))
        if self.pool is not None:
            # Pooling before the 1x1 shortcut gives the same as after it, at a quarter of the work.
            residual, x = self.pool(residual), self.pool(x)
        return residual + (self.shortcut(x) if self.shortcut is not None else x)


def _dense_start(side, filters):
    return keras.Sequential([layers.Dense(side * side * filters), layers.Reshape((side, side, filters))])


def _residual_initializer():
    """Glorot uniform with gain sqrt 2."""
    return keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform")
