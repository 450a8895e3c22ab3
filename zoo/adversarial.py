"""Generative adversarial networks: the training that every GAN of the zoo shares."""

from typing import Literal

import keras
import tensorflow as tf
from keras import ops

from zoo import diffaugment, losses, randomness, replicas
from zoo.generative import GenerativeModel, make_optimizer, scaled
from zoo.layers import spectral_layers
from zoo.recipe import parse_augment

# Purposes that keep the draws of one step apart: those of its n-th generator or discriminator update are these + 2 n.
_GENERATOR, _DISCRIMINATOR = 0, 1
WASSERSTEIN_PENALTY_WEIGHT = 10.0  # Gulrajani et al. 2017, section 4


class GAN(GenerativeModel):
    """A generator and a discriminator trained against each other (Goodfellow et al. 2014).

    A subclass sets its hyperparameters, calls `build_networks()` at the end of its constructor, and defines
    `build_generator` and `build_discriminator`. One call of `train_step` is one step: `discriminator_steps` updates
    of the discriminator, each on fresh real images and fresh noise, then `generator_steps` of the generator, then one
    of the moving average. `fit` therefore takes batches of `batch_size * discriminator_steps` real images in [-1, 1],
    and of a conditional model (images, labels): what is generated in training has the labels of the real images.

    Args:
        loss: Adversarial loss (`zoo.losses.ADVERSARIAL`).
        discriminator_steps: Discriminator updates a step.
        generator_steps: Generator updates a step.
        augment: DiffAugment policy on all that the discriminator sees: `color,translation,cutout` or `none`.
        num_classes: Makes the model conditional: batch norm of the generator by class (Dumoulin et al. 2017), label
            projection in the discriminator (Miyato and Koyama 2018).
        gradient_penalty_weight: Weight of the penalty between real and generated images; `None` is 10 for the
            wasserstein loss and 0 for the others.
        r1_weight: Gamma of the penalty at real images.
        label_smoothing: One-sided: how far below 1 the target of real images is.
        label_noise: Share of the images that the discriminator is told the wrong label of.
        instance_noise: Standard deviation, at the first step, of noise on all that the discriminator sees
            (Sonderby et al. 2017, section 3).
        instance_noise_steps: Steps after which that noise has fallen linearly to 0.
        pretraining_steps: First steps that update the discriminator alone.
        generator_dropout: Share of the features dropped after each block of the generator, in training.

    Reference:
        https://arxiv.org/abs/1406.2661
    """

    def __init__(
        self,
        image_shape,
        *,
        loss: Literal["non_saturating", "minimax", "hinge", "least_squares", "wasserstein"] | None = None,
        discriminator_steps: int | None = None,
        generator_steps: int = 1,
        augment: str = "none",
        num_classes: int | None = None,
        gradient_penalty_weight: float | None = None,
        r1_weight: float = 0.0,
        label_smoothing: float = 0.0,
        label_noise: float = 0.0,
        instance_noise: float = 0.0,
        instance_noise_steps: int = 10_000,
        pretraining_steps: int = 0,
        generator_dropout: float = 0.0,
        **model_options,
    ):
        super().__init__(image_shape, **model_options)
        loss = self.recipe_value("loss", loss)
        self.loss_name = "non_saturating" if loss is None else loss
        if self.loss_name not in losses.ADVERSARIAL:
            raise ValueError(f"`loss` must be one of {', '.join(losses.ADVERSARIAL)}. Received: {loss!r}")
        self.adversarial_loss = losses.ADVERSARIAL[self.loss_name]
        steps = self.recipe_value("discriminator_steps", discriminator_steps)
        self.discriminator_steps = 1 if steps is None else steps
        self.generator_steps = generator_steps
        for name, count in {
            "discriminator_steps": self.discriminator_steps,
            "generator_steps": generator_steps,
        }.items():
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {count}")
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2, or None. Received: {num_classes}")
        for name, share in {
            "label_smoothing": label_smoothing,
            "label_noise": label_noise,
            "generator_dropout": generator_dropout,
        }.items():
            if not 0 <= share < 1:
                raise ValueError(f"`{name}` must be in [0, 1). Received: {share}")
        if gradient_penalty_weight is None:
            gradient_penalty_weight = WASSERSTEIN_PENALTY_WEIGHT if self.loss_name == "wasserstein" else 0.0
        for name, value in {
            "gradient_penalty_weight": gradient_penalty_weight,
            "r1_weight": r1_weight,
            "instance_noise": instance_noise,
            "pretraining_steps": pretraining_steps,
        }.items():
            if value < 0:
                raise ValueError(f"`{name}` must be 0 or more. Received: {value}")
        self.num_classes = num_classes
        self.gradient_penalty_weight = gradient_penalty_weight
        self.r1_weight = r1_weight
        self.label_smoothing = label_smoothing
        self.label_noise = label_noise
        self.instance_noise = instance_noise
        self.instance_noise_steps = max(1, instance_noise_steps)
        self.pretraining_steps = pretraining_steps
        self.generator_dropout = generator_dropout
        self.augment_policy = parse_augment(augment)
        self.discriminator_inputs = (self.image_shape,)  # shapes, without the batch, of what the discriminator takes
        self.d_optimizer = None
        self.g_optimizer = None

    def build_generator(self):
        """Returns a new network from z `[n, latent_dim]` to images in [-1, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define build_generator()")

    def build_discriminator(self):
        """Returns a new network from images in [-1, 1] to float32 logits `[n]` or `[n, num_logits]`."""
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
    def optimizers_by_name(self):
        pairs = {"d_optimizer": self.d_optimizer, "g_optimizer": self.g_optimizer}
        return {name: optimizer for name, optimizer in pairs.items() if optimizer is not None}

    def compile(
        self,
        d_optimizer=None,
        g_optimizer=None,
        *,
        recipe=None,
        steps=None,
        steps_per_epoch=None,
        jit_compile="auto",
        accumulate=1,
    ):
        """Configures the training; without arguments, as the recipe says.

        Args:
            d_optimizer: Optimizer of the discriminator.
            g_optimizer: Optimizer of the generator.
            recipe: `Recipe` to take the optimizers' settings from, in place of the variant's own.
            steps: Steps in all, where the learning rate decays linearly; the recipe's, if not given.
            steps_per_epoch: Steps a pass over the data, where it decays exponentially.
            jit_compile: Whether XLA compiles the two loss-and-gradient functions; `auto`: where there is a GPU.
            accumulate: Equal parts that the images of an update go through the networks in, one after another, to save
                memory; the gradient is the mean of theirs. The draws are those of the whole; the statistics of batch
                norm are those of a part.
        """
        recipe = recipe or self.recipe
        steps = steps or recipe.steps

        def optimizer(given, learning_rate, k):
            if given is None:
                num_updates = steps and steps * k
                given = make_optimizer(recipe, learning_rate, num_updates, steps_per_epoch and steps_per_epoch * k)
            return scaled(keras.optimizers.get(given))

        self.d_optimizer = optimizer(d_optimizer, recipe.d_learning_rate, self.discriminator_steps)
        self.g_optimizer = optimizer(g_optimizer, recipe.g_learning_rate, self.generator_steps)
        # Built now: weights loaded before the first step would skip optimizers that have no variables yet.
        self.d_optimizer.build(self.discriminator.trainable_variables)
        self.g_optimizer.build(self.generator.trainable_variables)
        self._jit_compile_gradients = jit_compile = replicas.jit_compiles(jit_compile)
        self.accumulate = accumulate
        # XLA is used inside: a compiled `train_step` cannot hold the collectives of several replicas.
        self._discriminator_function = replicas.compiled(self, self.discriminator_gradients, jit_compile)
        self._generator_function = replicas.compiled(self, self.generator_gradients, jit_compile)
        self._normalize_function = tf.function(self._power_iteration, jit_compile=jit_compile)
        super().compile(optimizer=None, jit_compile=False)

    def get_compile_config(self):
        if self.d_optimizer is None:
            return {}
        return {
            "d_optimizer": keras.optimizers.serialize(self.d_optimizer),
            "g_optimizer": keras.optimizers.serialize(self.g_optimizer),
            "jit_compile": self._jit_compile_gradients,
            "accumulate": self.accumulate,
        }

    def compile_from_config(self, config):
        self.compile(
            keras.optimizers.deserialize(config["d_optimizer"]),
            keras.optimizers.deserialize(config["g_optimizer"]),
            jit_compile=config["jit_compile"],
            accumulate=config.get("accumulate", 1),
        )

    def generate(self, z, labels=None):
        return self.ema_generator(z, training=False, **self.label_arguments(labels))

    def discriminate(self, images, labels=None):
        """Returns float32 logits `[n]` of images in [-1, 1]: above 0 means real (and of that class, with labels)."""
        return self.discriminator(images, training=False, **self.label_arguments(labels))

    # The training step.

    def _scope(self, purpose, part=0):
        return randomness.scope(self.seed, self.step, purpose, part, self._num_parts())

    def _num_parts(self):
        """Returns in how many parts, over all replicas, the images of an update go through the networks."""
        return replicas.count() * self.accumulate

    def _latent_batch(self, batch_size):
        return randomness.normal([batch_size, self.latent_dim])

    def generate_in_training(self, z, labels=None):
        """Returns what the objectives take as `fake_images`: images, or a tuple of them at several sizes."""
        return self.generator(z, training=True, **self.label_arguments(labels))

    def seen(self, images):
        """Returns images, or a tuple of them, as the discriminator sees them in training: distorted, and with noise."""

        def distorted(each):
            each = diffaugment.augment(each, self.augment_policy)
            if not self.instance_noise:
                return each
            left = tf.maximum(0.0, 1.0 - tf.cast(self.step, tf.float32) / self.instance_noise_steps)
            return each + self.instance_noise * left * randomness.normal(each.shape)

        return tf.nest.map_structure(distorted, images)

    def criticize(self, seen, labels=None):
        """Returns the discriminator's training logits of what it sees, images or a tuple of them."""
        return self.discriminator(*tf.nest.flatten(seen), training=True, **self.label_arguments(labels))

    def adversarial_terms(self, real_logits, fake_logits, game=None):
        """Returns `(loss, logs)` of the discriminator in the game alone, by default that of the constructor's `loss`."""
        logs = {
            "d_real_accuracy": ops.mean(ops.cast(real_logits > 0, "float32")),
            "d_fake_accuracy": ops.mean(ops.cast(fake_logits < 0, "float32")),
        }
        if self.label_noise:
            flipped = randomness.uniform([real_logits.shape[0]]) < self.label_noise
            real_logits, fake_logits = losses.flip_labels(real_logits, fake_logits, flipped)
        loss = (game or self.adversarial_loss).discriminator(real_logits, fake_logits, self.label_smoothing)
        return loss, {"d_loss": loss, **logs}

    def penalties(self, real_seen, fake_seen, labels=None):
        """Returns `(sum, logs)` of the penalties on the discriminator's gradient; nothing where their weights are 0."""
        total, logs = 0.0, {}

        def critic(seen):
            return self.criticize(seen, labels)

        if self.gradient_penalty_weight:
            mix = randomness.uniform([tf.nest.flatten(real_seen)[0].shape[0]])
            logs["gradient_penalty"] = losses.gradient_penalty(critic, real_seen, fake_seen, mix)
            total += self.gradient_penalty_weight * logs["gradient_penalty"]
        if self.r1_weight:
            logs["r1_penalty"] = losses.r1_penalty(critic, real_seen)
            total += self.r1_weight * logs["r1_penalty"]
        return total, logs

    def discriminator_objective(self, real_images, fake_images, labels=None):
        """Returns `(loss, logs)` of the discriminator on one batch; both are float32 scalars, by name in `logs`."""
        real_seen, fake_seen = self.seen(real_images), self.seen(fake_images)
        loss, logs = self.adversarial_terms(self.criticize(real_seen, labels), self.criticize(fake_seen, labels))
        penalty, penalty_logs = self.penalties(real_seen, fake_seen, labels)
        return loss + penalty, logs | penalty_logs

    def generator_objective(self, fake_images, labels=None):
        """Returns `(loss, logs)` of the generator on one batch of its images."""
        loss = self.adversarial_loss.generator(self.criticize(self.seen(fake_images), labels))
        return loss, {"g_loss": loss}

    def _scaled(self, loss, optimizer):
        return optimizer.scale_loss(loss / self._num_parts())  # parts are added up here, replicas by the optimizer

    def _norm(self, gradients, optimizer):
        return tf.linalg.global_norm(gradients) / self._scaled(tf.constant(1.0), optimizer)

    def _power_iteration(self, network):
        for layer in self._spectral[network]:
            layer.power_iteration()

    def discriminator_gradients(self, real_images, update, labels=None, part=0):
        """Returns `(gradients, logs)` of the discriminator for a part of the images of this step's `update`-th update."""
        with self._scope(_DISCRIMINATOR + 2 * update, part):
            fake_images = self.generate_in_training(self._latent_batch(real_images.shape[0]), labels)
            fake_images = tf.nest.map_structure(tf.stop_gradient, fake_images)
            with tf.GradientTape() as tape:
                loss, logs = self.discriminator_objective(real_images, fake_images, labels)
                scaled_loss = self._scaled(loss, self.d_optimizer)
        gradients = tape.gradient(scaled_loss, self.discriminator.trainable_variables)
        return gradients, logs | {"d_gradient_norm": self._norm(gradients, self.d_optimizer)}

    def generator_gradients(self, batch_size, update=0, labels=None, part=0):
        """Returns `(gradients, logs)` of the generator for a part of the images of this step's `update`-th update."""
        with self._scope(_GENERATOR + 2 * update, part):
            with tf.GradientTape() as tape:
                fake_images = self.generate_in_training(self._latent_batch(batch_size), labels)
                loss, logs = self.generator_objective(fake_images, labels)
                scaled_loss = self._scaled(loss, self.g_optimizer)
        gradients = tape.gradient(scaled_loss, self.generator.trainable_variables)
        return gradients, logs | {"g_gradient_norm": self._norm(gradients, self.g_optimizer)}

    def train_step(self, data):
        images, labels = self._unpacked(data)
        count = images.shape[0]
        if count is None or count % (self.discriminator_steps * self.accumulate):
            raise ValueError(
                f"A batch must have a known size divisible by discriminator_steps={self.discriminator_steps} (each "
                f"discriminator update sees its own real images: `dataset.batch(batch_size * discriminator_steps, "
                f"drop_remainder=True)`) times accumulate={self.accumulate}. Received: a batch of {count}"
            )
        batch_size = count // self.discriminator_steps
        logs = {}
        for update in range(self.discriminator_steps):
            rows = slice(update * batch_size, (update + 1) * batch_size)
            update_labels = None if labels is None else labels[rows]
            self._normalize_function("discriminator")
            number = tf.constant(update, tf.int64)
            gradients, d_logs = replicas.accumulated(
                lambda images, labels, part, number=number: self._discriminator_function(images, number, labels, part),
                (images[rows], update_labels),
                self.accumulate,
            )
            self._apply(self.d_optimizer, gradients, self.discriminator)
            logs.update(d_logs)
        before = self._generator_state() if self.pretraining_steps else []
        for update in range(self.generator_steps):
            self._normalize_function("generator")
            number = tf.constant(update, tf.int64)
            # The labels of the last real images: their noise is another.
            gradients, g_logs = replicas.accumulated(
                lambda labels, part, number=number: self._generator_function(
                    batch_size // self.accumulate, number, labels, part
                ),
                (update_labels,),
                self.accumulate,
            )
            self._apply(self.g_optimizer, gradients, self.generator)
            logs.update(g_logs)
        for variable, value in before:  # the same graph in every step, so that a strategy's replicas stay together
            variable.assign(tf.where(self.step < self.pretraining_steps, value, tf.convert_to_tensor(variable)))
        replicas.average_statistics(self.generator, self.discriminator)
        self._update_average(self.ema_generator, self.generator)
        self.step.assign(self.step + 1)
        return replicas.reducible(logs)

    def _apply(self, optimizer, gradients, network):
        optimizer.apply(replicas.agreeing(gradients, optimizer), network.trainable_variables)

    def _unpacked(self, data):
        """Returns `(images, labels)` of what `fit` hands over; labels are `None` where the model takes none."""
        pair = isinstance(data, (tuple, list))
        if pair != (self.num_classes is not None):
            raise ValueError(
                "A conditional model is trained on (images, labels), an unconditional one on images alone. Received: "
                f"{f'a tuple of {len(data)}' if pair else 'one tensor'} for num_classes={self.num_classes}"
            )
        return data if pair else (data, None)

    def _generator_state(self):
        """Returns `[(variable, its value now)]` of all that updates of the generator change."""
        variables = self.generator.variables + self.g_optimizer.variables
        return [(variable, tf.identity(tf.convert_to_tensor(variable))) for variable in variables]
