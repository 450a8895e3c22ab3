"""Generative adversarial networks: the training that every GAN of the zoo shares."""

from typing import Literal

import keras
import tensorflow as tf

from zoo import diffaugment, losses, randomness
from zoo.generative import GenerativeModel, make_optimizer, scaled
from zoo.layers import spectral_layers
from zoo.recipe import parse_augment

# Purposes that keep the draws of one step apart; those of the d-th discriminator update follow from _DISCRIMINATOR on.
_GENERATOR, _DISCRIMINATOR = 0, 1


class GAN(GenerativeModel):
    """A generator and a discriminator trained against each other (Goodfellow et al. 2014).

    A subclass sets its hyperparameters, calls `build_networks()` at the end of its constructor, and defines
    `build_generator` and `build_discriminator`. One call of `train_step` is one step: `discriminator_steps` updates
    of the discriminator, each on fresh real images and fresh noise, then one of the generator, then one of the
    moving average. `fit` therefore takes batches of `batch_size * discriminator_steps` real images in [-1, 1].

    Args:
        loss: Adversarial loss (`zoo.losses.ADVERSARIAL`).
        discriminator_steps: Discriminator updates a step.
        augment: DiffAugment policy on all that the discriminator sees: `color,translation,cutout` or `none`.

    Reference:
        https://arxiv.org/abs/1406.2661
    """

    def __init__(
        self,
        image_shape,
        *,
        loss: Literal["non_saturating", "minimax", "hinge", "least_squares", "wasserstein"] | None = None,
        discriminator_steps: int | None = None,
        augment: str = "none",
        **model_options,
    ):
        super().__init__(image_shape, **model_options)
        loss = self.recipe_value("loss", loss)
        self.loss_name = "non_saturating" if loss is None else loss
        if self.loss_name not in losses.ADVERSARIAL:
            raise ValueError(f"`loss` must be one of {', '.join(losses.ADVERSARIAL)}. Received: {loss!r}")
        self._discriminator_loss, self._generator_loss = losses.ADVERSARIAL[self.loss_name]
        steps = self.recipe_value("discriminator_steps", discriminator_steps)
        self.discriminator_steps = 1 if steps is None else steps
        if self.discriminator_steps < 1:
            raise ValueError(f"`discriminator_steps` must be at least 1. Received: {discriminator_steps}")
        self.augment_policy = parse_augment(augment)
        self.discriminator_inputs = (self.image_shape,)  # shapes, without the batch, of what the discriminator takes
        self.d_optimizer = None
        self.g_optimizer = None

    def build_generator(self):
        """Returns a new network from z `[n, latent_dim]` to images in [-1, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define build_generator()")

    def build_discriminator(self):
        """Returns a new network from images in [-1, 1] to float32 logits `[n]`."""
        raise NotImplementedError(f"{type(self).__name__} must define build_discriminator()")

    def build_networks(self):
        """Makes the networks and their variables; a subclass calls it once its hyperparameters are set."""
        self.generator = self._build_network(self.build_generator, (self.latent_dim,))
        self.discriminator = self._build_network(self.build_discriminator, *self.discriminator_inputs)
        self.ema_generator = self._track_average(self.generator, self.build_generator, (self.latent_dim,))
        self._spectral = {
            "generator": spectral_layers(self.generator),
            "discriminator": spectral_layers(self.discriminator),
        }
        self.built = True

    @property
    def networks(self):
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema_generator": self.ema_generator,
        }

    @property
    def inference_networks(self):
        return {"ema_generator": self.ema_generator, "discriminator": self.discriminator}

    @property
    def optimizers_by_name(self):
        pairs = {"d_optimizer": self.d_optimizer, "g_optimizer": self.g_optimizer}
        return {name: optimizer for name, optimizer in pairs.items() if optimizer is not None}

    def compile(
        self, d_optimizer=None, g_optimizer=None, *, recipe=None, steps=None, steps_per_epoch=None, jit_compile=True
    ):
        """Configures the training; without arguments, as the recipe says.

        Args:
            d_optimizer: Optimizer of the discriminator.
            g_optimizer: Optimizer of the generator.
            recipe: `Recipe` to take the optimizers' settings from, in place of the variant's own.
            steps: Generator updates in all, where the learning rate decays linearly; the recipe's, if not given.
            steps_per_epoch: Generator updates a pass over the data, where it decays exponentially.
            jit_compile: Whether XLA compiles the two loss-and-gradient functions.
        """
        recipe = recipe or self.recipe
        steps = steps or recipe.steps
        k = self.discriminator_steps
        if d_optimizer is None:
            d_optimizer = make_optimizer(
                recipe, recipe.d_learning_rate, steps and steps * k, steps_per_epoch and steps_per_epoch * k
            )
        if g_optimizer is None:
            g_optimizer = make_optimizer(recipe, recipe.g_learning_rate, steps, steps_per_epoch)
        self.d_optimizer = scaled(keras.optimizers.get(d_optimizer))
        self.g_optimizer = scaled(keras.optimizers.get(g_optimizer))
        # Built now: weights loaded before the first step would skip optimizers that have no variables yet.
        self.d_optimizer.build(self.discriminator.trainable_variables)
        self.g_optimizer.build(self.generator.trainable_variables)
        self._jit_compile_gradients = jit_compile
        # XLA is used inside: a compiled `train_step` cannot hold the collectives of several replicas.
        self._discriminator_function = tf.function(self.discriminator_gradients, jit_compile=jit_compile)
        self._generator_function = tf.function(self.generator_gradients, jit_compile=jit_compile)
        super().compile(optimizer=None, jit_compile=False)

    def get_compile_config(self):
        if self.d_optimizer is None:
            return {}
        return {
            "d_optimizer": keras.optimizers.serialize(self.d_optimizer),
            "g_optimizer": keras.optimizers.serialize(self.g_optimizer),
            "jit_compile": self._jit_compile_gradients,
        }

    def compile_from_config(self, config):
        self.compile(
            keras.optimizers.deserialize(config["d_optimizer"]),
            keras.optimizers.deserialize(config["g_optimizer"]),
            jit_compile=config["jit_compile"],
        )

    def generate(self, z):
        return self.ema_generator(z, training=False)

    def discriminate(self, images):
        """Returns float32 logits `[n]` of images in [-1, 1]: above 0 means real."""
        return self.discriminator(images, training=False)

    # The training step.

    def _scope(self, purpose):
        context = tf.distribute.get_replica_context()
        return randomness.scope(
            self.seed, self.step, purpose, context.replica_id_in_sync_group, context.num_replicas_in_sync
        )

    def _num_replicas(self):
        return tf.distribute.get_replica_context().num_replicas_in_sync

    def _latent_batch(self, batch_size):
        return randomness.normal([batch_size, self.latent_dim])

    def generate_in_training(self, z):
        """Returns what the objectives take as `fake_images`: images, or a tuple of them at several sizes."""
        return self.generator(z, training=True)

    def discriminator_objective(self, real_images, fake_images):
        """Returns `(loss, logs)` of the discriminator on one batch; both are float32 scalars, by name in `logs`."""
        real_logits = self.discriminator(diffaugment.augment(real_images, self.augment_policy), training=True)
        fake_logits = self.discriminator(diffaugment.augment(fake_images, self.augment_policy), training=True)
        loss = self._discriminator_loss(real_logits, fake_logits)
        return loss, {"d_loss": loss}

    def generator_objective(self, fake_images):
        """Returns `(loss, logs)` of the generator on one batch of its images."""
        fake_logits = self.discriminator(diffaugment.augment(fake_images, self.augment_policy), training=True)
        loss = self._generator_loss(fake_logits)
        return loss, {"g_loss": loss}

    def discriminator_gradients(self, real_images, update):
        """Returns `(gradients, logs)` of the discriminator for its `update`-th update of this step."""
        with self._scope(_DISCRIMINATOR + update):
            for layer in self._spectral["discriminator"]:
                layer.power_iteration()
            fake_images = self.generate_in_training(self._latent_batch(real_images.shape[0]))
            fake_images = tf.nest.map_structure(tf.stop_gradient, fake_images)
            with tf.GradientTape() as tape:
                loss, logs = self.discriminator_objective(real_images, fake_images)
                # The optimizer sums over replicas.
                scaled_loss = self.d_optimizer.scale_loss(loss / self._num_replicas())
        return tape.gradient(scaled_loss, self.discriminator.trainable_variables), logs

    def generator_gradients(self, batch_size):
        """Returns `(gradients, logs)` of the generator for this step."""
        with self._scope(_GENERATOR):
            for layer in self._spectral["generator"]:
                layer.power_iteration()
            with tf.GradientTape() as tape:
                fake_images = self.generate_in_training(self._latent_batch(batch_size))
                loss, logs = self.generator_objective(fake_images)
                scaled_loss = self.g_optimizer.scale_loss(loss / self._num_replicas())
        return tape.gradient(scaled_loss, self.generator.trainable_variables), logs

    def train_step(self, data):
        images = data
        count = images.shape[0]
        if count is None or count % self.discriminator_steps:
            raise ValueError(
                f"A batch must have a known size divisible by discriminator_steps={self.discriminator_steps}: each "
                f"discriminator update sees its own real images (`dataset.batch(batch_size * discriminator_steps, "
                f"drop_remainder=True)`). Received: a batch of {count}"
            )
        batch_size = count // self.discriminator_steps
        logs = {}
        for update in range(self.discriminator_steps):
            real_images = images[update * batch_size : (update + 1) * batch_size]
            gradients, d_logs = self._discriminator_function(real_images, tf.constant(update, tf.int64))
            self.d_optimizer.apply(gradients, self.discriminator.trainable_variables)
            logs.update(d_logs)
        gradients, g_logs = self._generator_function(batch_size)
        self.g_optimizer.apply(gradients, self.generator.trainable_variables)
        logs.update(g_logs)
        self._update_average(self.ema_generator, self.generator)
        self.step.assign(self.step + 1)
        return logs
