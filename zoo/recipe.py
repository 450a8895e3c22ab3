"""How an architecture is trained by default. Importing this module costs nothing: no TensorFlow."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

LEARNING_RATE_DECAYS = ("constant", "linear", "exponential")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training settings of one variant of an architecture, as its source states them.

    A recipe sits beside its class, as a literal, so that it can be read without importing TensorFlow. One of
    `steps` and `epochs` says how long to train; a step is one generator update. Sides outside `sizes` are refused.

    Args:
        source: The paper and table, or the document, that the numbers come from.
        sizes: Sides (pixels, images are square) this variant can have.
        size: Side used when none is asked for.
        batch_size: Images an update, over all devices.
        steps: Generator updates.
        epochs: Passes over the data, in place of `steps`.
        g_learning_rate: Learning rate of the generator (or of the whole model, where there is only one optimizer).
        d_learning_rate: Learning rate of the discriminator.
        beta_1: Adam's decay of the gradient's mean.
        beta_2: Adam's decay of the gradient's square.
        weight_decay: AdamW's decoupled weight decay; 0 means Adam.
        learning_rate_decay: `linear` falls to 0 at the last step, `exponential` by `decay_rate` an epoch.
        decay_rate: Factor an epoch of the exponential decay.
        hyperparameters: Constructor arguments that this variant sets where the caller leaves them `None`.
    """

    source: str
    sizes: Collection[int] = range(8, 1025)
    size: int = 32
    batch_size: int = 64
    steps: int | None = None
    epochs: int | None = None
    g_learning_rate: float = 2e-4
    d_learning_rate: float = 2e-4
    beta_1: float = 0.5
    beta_2: float = 0.999
    weight_decay: float = 0.0
    learning_rate_decay: Literal["constant", "linear", "exponential"] = "constant"
    decay_rate: float = 1.0
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def generator_updates(self, num_images):
        """Returns the number of generator updates for a data set of `num_images` pictures."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            return 20_000
        return max(1, round(self.epochs * num_images / self.batch_size))


# The fields that `--set` may change beside the constructor's arguments (the rest have options of their own).
TUNABLE = {
    "g_learning_rate": float,
    "d_learning_rate": float,
    "beta_1": float,
    "beta_2": float,
    "weight_decay": float,
    "learning_rate_decay": Literal[LEARNING_RATE_DECAYS],
    "decay_rate": float,
}


def select_variant(architecture, recipes, variant, image_shape):
    """Returns the name of the variant to build, after checking the image shape against it.

    Args:
        architecture: Name for messages.
        recipes: `{variant: Recipe}`; where `variant` is `None` the first that has the side is taken.
        variant: Name of a variant, or `None`.
        image_shape: `(height, width, channels)`.

    Raises:
        ValueError: If the shape is not square with 1, 3 or 4 channels, the variant is unknown, or the variant
            cannot have this side (the message names the nearest sides it can have).
    """
    if len(image_shape) != 3 or image_shape[0] != image_shape[1]:
        raise ValueError(
            f"`image_shape` must be (side, side, channels): images here are square. Received: {tuple(image_shape)}"
        )
    side, _, channels = image_shape
    if channels not in (1, 3, 4):
        raise ValueError(f"`image_shape` must have 1, 3 or 4 channels. Received: {channels} in {tuple(image_shape)}")
    if variant is not None and variant not in recipes:
        raise ValueError(f"`variant` of {architecture} must be one of {', '.join(recipes)}. Received: {variant!r}")
    candidates = [variant] if variant is not None else list(recipes)
    for name in candidates:
        if side in recipes[name].sizes:
            return name
    which = f"{architecture} ({variant})" if variant is not None else architecture
    sides = sorted({size for name in candidates for size in recipes[name].sizes})
    below = [size for size in sides if size < side][-1:]
    above = [size for size in sides if size > side][:1]
    raise ValueError(
        f"{which} cannot make images of side {side}. The nearest sides it can: "
        f"{' and '.join(map(str, below + above))} (all: {_describe_sizes(sides)})"
    )


def _describe_sizes(sides):
    if len(sides) <= 12:
        return ", ".join(map(str, sides))
    return f"{sides[0]}, {sides[1]}, {sides[2]} ... {sides[-1]}"


AUGMENTATIONS = ("color", "translation", "cutout")


def parse_augment(policy):
    """Returns the names in a DiffAugment policy such as `"color,translation,cutout"`; `"none"` is the empty one.

    Raises:
        ValueError: If a name is unknown.
    """
    chosen = [name.strip() for name in policy.split(",") if name.strip() and name.strip() != "none"]
    for name in chosen:
        if name not in AUGMENTATIONS:
            raise ValueError(
                f"`augment` takes {', '.join(AUGMENTATIONS)} (joined by commas) or none. Received: {name!r}"
            )
    return chosen
