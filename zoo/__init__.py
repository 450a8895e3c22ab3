"""A zoo of generative image models for small image sets, on TensorFlow and Keras 3.

`zoo.names()` lists the architectures, `zoo.create(name, image_shape=(32, 32, 3))` makes one, `zoo.load(run_dir)`
brings a trained one back. Importing this package does not import TensorFlow.
"""

from zoo.recipe import Recipe
from zoo.registry import describe, names, register

__all__ = ["Recipe", "create", "describe", "load", "names", "register"]
__version__ = "0.1.0"


def create(name, image_shape, **hyperparameters):
    """Makes a model with fresh weights.

    Args:
        name: Architecture, one of `zoo.names()`, or `path/to/file.py:Class`.
        image_shape: `(side, side, channels)`.
        **hyperparameters: Arguments of the architecture's constructor (`zoo.describe(name).parameters`).

    Returns:
        A `zoo.generative.GenerativeModel`, a Keras model: `compile()`, `fit(dataset)`, `sample(count, seed)`.

    Raises:
        ValueError: If there is no such architecture or argument (the nearest is proposed), or it cannot make images
            of this shape.
    """
    describe(name).select(image_shape, hyperparameters)
    from zoo.registry import get_class

    return get_class(name)(tuple(image_shape), **hyperparameters)


def load(run_dir):
    """Returns the trained model of a run directory, ready for `sample`.

    Args:
        run_dir: Directory that `python -m training.fit` wrote (`config.json` and `checkpoints/`).

    Raises:
        ValueError: If it holds no run or no usable checkpoint.
    """
    from zoo.checkpoint import load_run

    return load_run(run_dir)
