"""Autoencoders: what the deterministic and the variational one share."""

import keras
import tensorflow as tf
from keras import layers

from zoo import randomness, replicas
from zoo.generative import GenerativeModel, make_optimizer, scaled
from zoo.layers import BatchNormalization, Dropout, Stack, batch_norm

_TRAINING = 0  # purpose of the training step's draws


class Autoencoder(GenerativeModel):
    """An encoder to a latent vector and a decoder back to the image (indoor-scenes and image-augmentation documents).

    One call of `train_step` is one step: an update of both networks, then of their moving averages. A subclass defines
    `code` and calls `build_networks()` at the end of its constructor.

    Args:
        base_filters: Width of the encoder's first convolution; each of the five halves the side and doubles the width.
    """

    num_heads = 1  # vectors that the encoder returns, concatenated

    def __init__(self, image_shape, *, base_filters: int = 32, **model_options):
        super().__init__(image_shape, **model_options)
        self.base_filters = base_filters

    def build_networks(self):
        """Makes the networks and their variables."""
        z = (self.latent_dim,)
        self.encoder = self._build_network(self.build_encoder, self.image_shape)
        self.decoder = self._build_network(self.build_decoder, z)
        self.ema_encoder = self._track_average(self.encoder, self.build_encoder, self.image_shape)
        self.ema_decoder = self._track_average(self.decoder, self.build_decoder, z)
        self.built = True

    def build_encoder(self):
        return Encoder(self.num_heads * self.latent_dim, self.base_filters, name="encoder")

    def build_decoder(self):
        return Decoder(self.image_shape, self.base_filters, name="decoder")

    @property
    def networks(self):
        return {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "ema_encoder": self.ema_encoder,
            "ema_decoder": self.ema_decoder,
        }

    @property
    def generator(self):
        """The network from latents to images."""
        return self.decoder

    @property
    def optimizers_by_name(self):
        return {} if getattr(self, "optimizer", None) is None else {"optimizer": self.optimizer}

    def compile(
        self, optimizer=None, *, recipe=None, steps=None, steps_per_epoch=None, jit_compile="auto", accumulate=1
    ):
        """Configures the training; without arguments, as the recipe says.

        Args:
            optimizer: Optimizer of both networks.
            recipe: `Recipe` to take the optimizer's settings from, in place of the variant's own.
            steps: Steps in all, where the learning rate decays linearly.
            steps_per_epoch: Steps a pass over the data, where it decays exponentially.
            jit_compile: Whether XLA compiles the loss-and-gradient function; `auto`: where there is a GPU.
            accumulate: As of `GAN.compile`.
        """
        recipe = recipe or self.recipe
        if optimizer is None:
            optimizer = make_optimizer(recipe, recipe.g_learning_rate, steps, steps_per_epoch)
        optimizer = scaled(keras.optimizers.get(optimizer))
        optimizer.build(self.coder_variables)
        self._jit_compile_gradients = jit_compile = replicas.jit_compiles(jit_compile)
        self.accumulate = accumulate
        self._gradient_function = replicas.compiled(self, self.gradients, jit_compile)
        super().compile(optimizer=optimizer, jit_compile=False)

    def get_compile_config(self):
        if not self.optimizers_by_name:
            return {}
        return {
            "optimizer": keras.optimizers.serialize(self.optimizer),
            "jit_compile": self._jit_compile_gradients,
            "accumulate": self.accumulate,
        }

    def compile_from_config(self, config):
        self.compile(
            keras.optimizers.deserialize(config["optimizer"]),
            jit_compile=config["jit_compile"],
            accumulate=config.get("accumulate", 1),
        )

    @property
    def coder_variables(self):
        """Trainable variables of the encoder and the decoder."""
        return self.encoder.trainable_variables + self.decoder.trainable_variables

    def generate(self, z):
        return self.ema_decoder(z, training=False)

    def encode(self, images):
        """Returns the latent of each image (of a VAE, its mean), float32 `[n, latent_dim]`, with the averaged weights.

        Args:
            images: float32 `[n, height, width, channels]` in [-1, 1].
        """
        return self.ema_encoder(images, training=False)[:, : self.latent_dim]

    def reconstruct(self, images):
        """Returns the images as decoded from their latents, of the same shape and range."""
        return self.generate(self.encode(images))

    def code(self, encoded):
        """Returns `(z, loss terms by name)` of the encoder's output `[n, num_heads * latent_dim]`."""
        raise NotImplementedError

    def total_loss(self, reconstruction_loss, terms):
        """Returns the loss that is minimized."""
        raise NotImplementedError

    def gradients(self, images, part=0):
        """Returns `(gradients, logs, z)` of a part of a step's images."""
        num_parts = replicas.count() * self.accumulate
        with randomness.scope(self.seed, self.step, _TRAINING, part, num_parts):
            with tf.GradientTape() as tape:
                z, terms = self.code(self.encoder(images, training=True))
                decoded = self.decoder(z, training=True)
                reconstruction_loss = tf.reduce_mean(tf.square(decoded - images))
                loss = self.total_loss(reconstruction_loss, terms)
                scaled_loss = self.optimizer.scale_loss(loss / num_parts)
        logs = {"loss": loss, "reconstruction_loss": reconstruction_loss, **terms}
        return tape.gradient(scaled_loss, self.coder_variables), logs, z

    def train_step(self, data):
        if data.shape[0] is None or data.shape[0] % self.accumulate:
            raise ValueError(
                f"A batch must have a known size divisible by accumulate={self.accumulate}. Received: a batch of "
                f"{data.shape[0]}"
            )
        gradients, logs, z = replicas.accumulated(self._gradient_function, (data,), self.accumulate)
        self.optimizer.apply(replicas.agreeing(gradients, self.optimizer), self.coder_variables)
        replicas.average_statistics(self.encoder, self.decoder)
        self._update_average(self.ema_encoder, self.encoder)
        self._update_average(self.ema_decoder, self.decoder)
        self._after_update(z)
        self.step.assign(self.step + 1)
        return replicas.reducible(logs)

    def _after_update(self, z):
        """What a subclass does with the latents of a step's images."""


class Encoder(keras.Model):
    """Five convolutions 3x3 of stride 2, each with batch norm, then a dense layer."""

    def __init__(self, outputs, base_filters, **kwargs):
        super().__init__(**kwargs)
        self.blocks = keras.Sequential()
        for power in range(5):
            self.blocks.add(layers.Conv2D(base_filters * 2**power, 3, strides=2, padding="same"))
            self.blocks.add(BatchNormalization(momentum=0.9, epsilon=1e-5))
            self.blocks.add(layers.LeakyReLU(negative_slope=0.01))
        self.flatten = layers.Flatten()
        self.heads = layers.Dense(outputs, dtype="float32")

    def call(self, images, training=False):
        return self.heads(self.flatten(self.blocks(images, training=training)))


class Decoder(keras.Model):
    """A dense layer to a map of a 32nd of the side, five transposed convolutions 3x3, a convolution to the image.

    A GAN may use it for its generator, with classes and dropout.
    """

    def __init__(self, image_shape, base_filters, num_classes=None, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        side, _, channels = image_shape
        start = (side // 32, side // 32, 16 * base_filters)
        self.start = keras.Sequential([layers.Dense(start[0] * start[1] * start[2]), layers.Reshape(start)])
        rows = []
        for width in (8, 4, 2, 1, 1):
            rows += [
                layers.Conv2DTranspose(width * base_filters, 3, strides=2, padding="same"),
                batch_norm(num_classes, momentum=0.9, epsilon=1e-5),
                layers.LeakyReLU(negative_slope=0.01),
                Dropout(dropout),
            ]
        self.blocks = Stack(rows)
        self.to_image = layers.Conv2D(channels, 3, padding="same")
        self.tanh = layers.Activation("tanh", dtype="float32")

    def call(self, z, labels=None, training=False):
        x = self.blocks(self.start(z), labels=labels, training=training)
        return self.tanh(self.to_image(x))
