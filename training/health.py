"""Watching a training for the three ways in which it goes wrong: one warning each, with what to try."""

import math
from collections import deque

import keras
import numpy as np

WINDOW = 500  # steps that a verdict looks back on
WON = 0.95  # share of right answers, on real and generated images alike, above which the discriminator has won
FLAT = 1e-5  # standard deviation of a loss, as a share of its mean, below which nothing is learned
COLLAPSED = 0.2  # diversity of the samples, as a share of that of the images, below which they are the same image

WARNINGS = {
    "won": (
        "The discriminator tells real from generated images almost always: the generator has little to learn from.",
        "--augment color,translation; --set label_smoothing=0.1 or r1_weight=1; a lower d_learning_rate; "
        "--set instance_noise=0.1.",
    ),
    "flat": (
        "The losses do not move any more.",
        "another learning rate (--set g_learning_rate=... d_learning_rate=...), --precision float32, or "
        "--set loss=hinge.",
    ),
    "collapsed": (
        "The samples are nearly all the same picture.",
        "--augment color,translation; a smaller g_learning_rate; --set loss=hinge; more images; for an autoencoder a "
        "smaller kl_weight.",
    ),
}


def diversity(images):
    """Returns the mean distance of two images, as the root of the mean squared difference of their pixels.

    Args:
        images: Float `[n, ...]`, n of at least 2.
    """
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    squares = (rows**2).mean(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * rows @ rows.T / rows.shape[1], 0)
    return float(np.sqrt(distances)[~np.eye(len(rows), dtype=bool)].mean())


class Health(keras.callbacks.Callback):
    """Adds `sample_diversity` to the logs and warns, once each, of what `WARNINGS` names.

    It is the mean distance of two samples with the averaged weights over that of two real images: near 1 when all is
    well, 0 when all samples are one. Measured every `every` steps, and logged as it was last.

    Args:
        reals: Real images in [-1, 1], float `[n, height, width, channels]`.
        draw: Function that returns as many samples, in the same range and shape.
        every: Steps between measurements of the diversity.
        tell: Takes a line of text.
    """

    def __init__(self, reals, draw, every, tell=print):
        super().__init__()
        self.reals_diversity = diversity(reals) if len(reals) > 1 else 0.0
        self.draw = draw
        self.every = every
        self.tell = tell
        self.recent = {}
        self.told = set()
        self.latest = math.nan

    def on_train_begin(self, logs=None):
        self.latest = self._measured()

    def on_train_batch_end(self, batch, logs=None):
        step = self.model.steps_done
        if step % self.every == 0:
            self.latest = self._measured()
        # A share of nothing, where the real images are all alike, is left out.
        if not math.isnan(self.latest):
            logs["sample_diversity"] = self.latest
        for name, value in logs.items():
            if name.endswith(("_accuracy", "loss")):
                self.recent.setdefault(name, deque(maxlen=WINDOW)).append(value)
        if step % 50 == 0:
            self._judge(step)

    def _measured(self):
        return diversity(self.draw()) / self.reals_diversity if self.reals_diversity > 0 else math.nan

    def _judge(self, step):
        full = {name: np.array(values) for name, values in self.recent.items() if len(values) == WINDOW}
        accuracies = [values.mean() for name, values in full.items() if name.endswith("_accuracy")]
        losses = [values for name, values in full.items() if name.endswith("loss")]
        if accuracies and min(accuracies) > WON:
            self._warn("won", step)
        if losses and all(values.std() <= FLAT * abs(values.mean()) for values in losses):
            self._warn("flat", step)
        # Samples are alike at first, in any training.
        if losses and self.latest < COLLAPSED:
            self._warn("collapsed", step)

    def _warn(self, what, step):
        if what not in self.told:
            self.told.add(what)
            finding, remedy = WARNINGS[what]
            self.tell(f"step {step}: {finding} What to try: {remedy}")
