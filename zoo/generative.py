"""What every model of the zoo has in common: its configuration, its sampling and its exponential moving average."""

import contextlib
import inspect

import keras
import numpy as np
import tensorflow as tf

from zoo import optimizers, randomness
from zoo.layers import spectral_layers
from zoo.recipe import Recipe, select_variant

SAMPLE_BATCH = 64  # images that `sample` makes at a time, of up to SAMPLE_SIDE pixels; fewer of larger ones
SAMPLE_SIDE = 128


@contextlib.contextmanager
def dtype_policy(policy):
    """Makes `policy` Keras' global dtype policy inside the block."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


class GenerativeModel(keras.Model):
    """Base of the zoo's models: turns latents into images.

    A subclass calls `super().__init__`, builds its networks, and hands the one that makes images to
    `_track_average`. The constructor is the configuration: `get_config` returns its arguments.

    Args:
        image_shape: `(side, side, channels)`, 1, 3 or 4 channels.
        variant: Name in the class's `recipes`; `None` takes the first that has the side.
        latent_dim: Size of a latent vector z.
        ema_decay: Decay, a step, of the moving average of the generator's weights that `sample` uses. It starts
            lower, as (1 + step) / (10 + step), so that short runs are not averages of their first steps.
        seed: Seed of the run; every random draw of the training is a function of it and the step.

    Raises:
        ValueError: If the architecture cannot make images of this shape.
    """

    architecture = None  # set by `register`
    num_classes = None  # of a conditional model
    recipes = {"default": Recipe(source="none stated")}

    def __new__(cls, *args, **kwargs):
        model = super().__new__(cls, *args, **kwargs)
        bound = inspect.signature(cls.__init__).bind(model, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for parameter in inspect.signature(cls.__init__).parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name)
        arguments = _inherited_defaults(cls) | arguments
        object.__setattr__(model, "_arguments", arguments)
        return model

    def __init__(
        self,
        image_shape,
        *,
        variant: str | None = None,
        latent_dim: int | None = None,
        ema_decay: float = 0.999,
        seed: int = 0,
    ):
        super().__init__()
        name = self.architecture or type(self).__name__
        self.variant = select_variant(name, self.recipes, variant, image_shape)
        self.recipe = self.recipes[self.variant]
        latent_dim = self.recipe_value("latent_dim", latent_dim)
        latent_dim = 100 if latent_dim is None else latent_dim
        if latent_dim < 1:
            raise ValueError(f"`latent_dim` must be at least 1. Received: {latent_dim}")
        if not 0 <= ema_decay < 1:
            raise ValueError(f"`ema_decay` must be in [0, 1). Received: {ema_decay}")
        self.image_shape = tuple(int(size) for size in image_shape)
        self.latent_dim = latent_dim
        self.ema_decay = ema_decay
        self.seed = seed
        self.step = self.add_weight(name="step", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self._sample_function = None

    def recipe_value(self, name, value):
        """Returns `value`, or, where it is `None`, what the variant's recipe sets for the argument `name`."""
        return self.recipe.hyperparameters.get(name) if value is None else value

    @property
    def steps_done(self):
        """Steps that the model was trained for, an int."""
        return int(self.step.numpy())  # `int(variable)` fails for one of several replicas

    @classmethod
    def resolve_hyperparameters(cls, hyperparameters):
        """Returns constructor arguments with those replaced that depend on what is installed, such as weights."""
        return hyperparameters

    def label_arguments(self, labels):
        """Returns the keyword arguments that a network takes for `labels`: none, where the model is not conditional.

        Raises:
            ValueError: If labels are missing, or given to a model that takes none.
        """
        if (labels is None) != (self.num_classes is None):
            raise ValueError(
                "This model is not conditional: it takes no labels."
                if self.num_classes is None
                else f"This model is conditional: `labels` must be given, integers from 0 to {self.num_classes - 1}."
            )
        return {} if labels is None else {"labels": labels}

    def example_labels(self):
        """Returns labels of one image, or `None` where the model is not conditional."""
        return None if self.num_classes is None else tf.zeros([1], tf.int64)

    def _build_network(self, build, *inputs):
        """Calls `build()` and then the network once, on zeros, so that its variables exist."""
        network = build()
        if self.num_classes is not None and "labels" not in inspect.signature(network.call).parameters:
            raise ValueError(
                f"{type(self).__name__} cannot be conditional: the call of its {network.name} takes no `labels`. "
                "Write it as call(self, z, labels=None, training=False)."
            )
        examples = (tf.zeros([1, *shape]) for shape in inputs)
        network(*examples, training=False, **self.label_arguments(self.example_labels()))
        return network

    def _track_average(self, network, build, *inputs):
        """Returns a float32 copy of `network`, made by `build`, that `_update_average` keeps as its moving average."""
        with dtype_policy("float32"):
            average = self._build_network(build, *inputs)
        for target, source in zip(average.variables, network.variables, strict=True):
            target.assign(source)
        average.trainable = False
        return average

    @property
    def networks(self):
        """The networks by name, as a checkpoint and the summary list them."""
        raise NotImplementedError

    @property
    def own_variables(self):
        """Variables that belong to no network, the step among them."""
        return self._trainable_variables + self._non_trainable_variables

    @property
    def optimizers_by_name(self):
        """The optimizers by name; empty before `compile`."""
        raise NotImplementedError

    def _update_average(self, average, network):
        step = tf.cast(self.step, tf.float32)
        decay = tf.minimum(self.ema_decay, (1 + step) / (10 + step))
        for target, source in zip(average.variables, network.variables, strict=True):
            value = tf.cast(tf.convert_to_tensor(source), target.dtype)
            if target.dtype == "float32":  # batch-norm statistics included
                value = target + (1 - decay) * (value - target)
            target.assign(value)
        # The mean of unit vectors is none: u and v become those of the averaged kernels.
        for layer in spectral_layers(average):
            layer.power_iteration()

    def latents(self, seeds, truncation=None):
        """Returns one latent per seed.

        Args:
            seeds: int64 `[n]`.
            truncation: float32 `[n]`, a factor on each latent; `None` for 1.

        Returns:
            float32 `[n, latent_dim]`, standard normal, each row a function of its seed alone.
        """
        z = randomness.latents(seeds, self.latent_dim)
        return z if truncation is None else z * truncation[:, None]

    def generate(self, z, labels=None):
        """Turns latents into images with the averaged weights.

        Args:
            z: float32 `[n, latent_dim]`.
            labels: Integers `[n]`, of a conditional model.

        Returns:
            float32 `[n, height, width, channels]` in [-1, 1].
        """
        raise NotImplementedError

    def sample(self, count, seed=0, labels=None, truncation=1.0):
        """Draws images with the averaged weights, one seed an image.

        Args:
            count: Number of images; they have the seeds `seed`, `seed + 1` ... so a longer sample begins with the
                shorter one.
            seed: First seed.
            labels: Of a conditional model: the class of each image, integers `[count]`, or of all, an integer. `None`
                goes round the classes: that of seed s is s modulo `num_classes`.
            truncation: Factor on the latents; below 1 trades variety for typical images.

        Returns:
            float32 array `[count, height, width, channels]` in [-1, 1].
        """
        if count < 0:
            raise ValueError(f"`count` must be 0 or more. Received: {count}")
        labels = self._labels_of(seed + np.arange(count, dtype=np.int64), labels)
        if self._sample_function is None:
            signature = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.float32)]
            if labels is not None:
                signature.append(tf.TensorSpec([None], tf.int64))
            self._sample_function = tf.function(
                lambda seeds, truncation, labels=None: self.generate(
                    self.latents(seeds, truncation), **self.label_arguments(labels)
                ),
                input_signature=signature,
            )
        images = np.empty((count, *self.image_shape), np.float32)
        batch = max(1, min(SAMPLE_BATCH, SAMPLE_BATCH * SAMPLE_SIDE**2 // self.image_shape[0] ** 2))
        for start in range(0, count, batch):
            seeds = np.arange(seed + start, seed + min(start + batch, count), dtype=np.int64)
            arguments = [seeds, np.full(len(seeds), truncation, np.float32)]
            if labels is not None:
                arguments.append(labels[start : start + len(seeds)])
            images[start : start + len(seeds)] = self._sample_function(*arguments)
        return images

    def _labels_of(self, seeds, labels):
        """Returns the label of each seed, checked; `None` where the model is not conditional."""
        if labels is None and self.num_classes is not None:
            return seeds % self.num_classes
        self.label_arguments(labels)
        if labels is None:
            return None
        labels = np.asarray(labels)
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape not in ((), seeds.shape):
            raise ValueError(
                f"`labels` must be one integer, or one for each of the {len(seeds)} images. Received: {labels.dtype} of "
                f"shape {labels.shape}"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"`labels` must be from 0 to {self.num_classes - 1}. Received: {labels.min()} to {labels.max()}"
            )
        return np.broadcast_to(labels, seeds.shape).astype(np.int64)

    def call(self, z, labels=None, training=False):
        return self.generate(z, **self.label_arguments(labels))

    def get_config(self):
        return {**self._arguments, "image_shape": list(self.image_shape)}

    @classmethod
    def from_config(cls, config):
        # A default of a base class is not passed on: the class may set that argument itself.
        defaults = _inherited_defaults(cls)
        same = {key for key, value in config.items() if key in defaults and value == defaults[key]}
        return cls(
            tuple(config["image_shape"]),
            **{key: value for key, value in config.items() if key != "image_shape" and key not in same},
        )

    def summary(self, print_fn=print):
        """Prints the networks, layer by layer with output shapes, and their parameter counts."""
        print_fn(f"{self.architecture or type(self).__name__} ({self.variant}) for images {self.image_shape}")
        for name, network in self.networks.items():
            if name.startswith("ema_"):
                continue
            print_fn(f"\n{name}: {count_parameters(network):,} trainable parameters")
            rows = [
                (layer.name, type(layer).__name__, sum(int(np.prod(each.shape)) for each in layer._trainable_variables))
                for layer in _leaves(network)
                if not isinstance(layer, keras.layers.InputLayer)
            ]
            width, kind = (max(len(row[column]) for row in rows) + 2 for column in (0, 1))
            for row in rows:
                print_fn(f"  {row[0]:{width}}{row[1]:{kind}}{row[2]:>12,}")


def _inherited_defaults(cls):
    """Returns the defaults of the arguments that `cls` passes on to its bases through `**options`."""
    own, defaults = None, {}
    for base in (base for base in cls.__mro__ if issubclass(base, GenerativeModel) and "__init__" in vars(base)):
        parameters = inspect.signature(base.__init__).parameters.values()
        found = {item.name: item.default for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}
        if own is None:
            own = {item.name for item in parameters}
        defaults = {key: value for key, value in found.items() if key not in own} | defaults
        if all(item.kind is not inspect.Parameter.VAR_KEYWORD for item in parameters):
            break
    return defaults


def _leaves(layer):
    """Yields the layers below `layer` that hold no others, or weights of their own, in the order of their making."""
    if not layer._layers or layer._trainable_variables:
        yield layer
    for child in layer._layers:
        yield from _leaves(child)


def count_parameters(layer):
    """Returns the number of trainable parameters of a layer or network."""
    return sum(int(np.prod(variable.shape)) for variable in layer.trainable_variables)


def make_optimizer(recipe, learning_rate, num_updates=None, updates_per_epoch=None):
    """Returns the recipe's Adam (AdamW where it has a weight decay), with its learning-rate schedule.

    Args:
        recipe: A `Recipe`.
        learning_rate: The initial learning rate.
        num_updates: Updates in all, which the linear decay needs.
        updates_per_epoch: Updates a pass over the data, which the exponential decay needs.

    Raises:
        ValueError: If the schedule needs a number that was not given.
    """
    if recipe.learning_rate_decay == "linear":
        if num_updates is None:
            raise ValueError("The linear learning-rate decay needs to know the end: `model.compile(steps=...)`.")
        learning_rate = keras.optimizers.schedules.PolynomialDecay(learning_rate, num_updates, end_learning_rate=0.0)
    elif recipe.learning_rate_decay == "exponential":
        if updates_per_epoch is None:
            raise ValueError(
                "The exponential learning-rate decay needs the length of an epoch: `model.compile(steps_per_epoch=...)`."
            )
        learning_rate = keras.optimizers.schedules.ExponentialDecay(
            learning_rate, updates_per_epoch, recipe.decay_rate, staircase=True
        )
    arguments = {"learning_rate": learning_rate, "beta_1": recipe.beta_1, "beta_2": recipe.beta_2}
    if recipe.weight_decay:
        return optimizers.AdamW(weight_decay=recipe.weight_decay, **arguments)
    return optimizers.Adam(**arguments)


def scaled(optimizer):
    """Wraps `optimizer` in dynamic loss scaling where the global policy is mixed_float16, else returns it."""
    if keras.config.dtype_policy().name != "mixed_float16":
        return optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)
