"""What happens around the steps of a training run, as Keras callbacks.

The step of a callback is the model's own count of generator updates, not Keras' count of batches.
"""

import contextlib
import csv
import math
import os
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np

from training import pictures
from training.data import to_uint8
from zoo import checkpoint

SAMPLE_SEED, NUM_SAMPLES, NUM_COLUMNS = 0, 64, 8
AGREE_EVERY = 10  # steps, after which several workers tell each other whether to stop
MOST_CLASSES = 16  # rows of a conditional model's grid


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the weights are no longer of use."""


class FiniteLosses(keras.callbacks.Callback):
    """Stops a run whose losses are no longer numbers, before anything is written from it."""

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_train_batch_end(self, batch, logs=None):
        if all(math.isfinite(value) for value in logs.values()):
            return
        values = ", ".join(f"{name} = {value}" for name, value in logs.items())
        raise _not_finite(f"A loss is not finite at step {self.model.steps_done}: {values}.", self.checkpoints)


def _not_finite(what, checkpoints):
    good = checkpoint.paths(checkpoints)
    return NonFiniteLoss(
        f"{what}\n"
        f"Nothing of this step was saved; the last good checkpoint is {good[-1] if good else 'none yet'}.\n"
        "What to try: a lower learning rate (--set g_learning_rate=1e-4 --set d_learning_rate=1e-4), "
        "--set loss=hinge, --precision float32, or a larger --batch-size, in a new --run-dir."
    )


class MetricsLog(keras.callbacks.Callback):
    """Progress with images a second and time left on the terminal, and every `every` steps a row of `metrics.csv`.

    Args:
        path: The CSV file; rows of steps that will be trained again are removed.
        steps: Last step.
        images_per_step: Real images a step.
        every: Steps between rows.
        waiting: `training.data.Waiting` of the batches: each row then has `data_wait`, the share of the time since the
            row before that went by in waiting for them. Not with several devices, which fetch theirs ahead.
    """

    def __init__(self, path, steps, images_per_step, every, waiting=None):
        super().__init__()
        self.path = Path(path)
        self.waiting = waiting
        self.steps = steps
        self.images_per_step = images_per_step
        self.every = every
        self.bar = self.file = None

    def on_train_begin(self, logs=None):
        self.start = self.mark = self.model.steps_done
        self.columns = _drop_rows_after(self.path, self.start)
        self.file = open(self.path, "a", newline="", encoding="utf-8")
        self.started = self.marked = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.steps, initial=self.start, unit="step", dynamic_ncols=True)

    def on_train_batch_end(self, batch, logs=None):
        step, now = self.model.steps_done, time.monotonic()
        if self.started is None:  # the first step compiles: speeds are measured from its end
            self.started = self.marked = now
            self.start = self.mark = step
            self.waited = self._waited()
            print("the first step is done: what it compiled is kept for the next ones", file=sys.stderr, flush=True)
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_postfix({name: f"{value:.3f}" for name, value in logs.items()}, refresh=False)
        if step % self.every and step != self.steps:
            return
        speed = (step - self.mark) * self.images_per_step / max(now - self.marked, 1e-9) if step > self.mark else 0.0
        waited = self._waited()
        share = (waited - self.waited) / max(now - self.marked, 1e-9)
        self.mark, self.marked, self.waited = step, now, waited
        row = {"step": step, **logs, "images_per_second": speed}
        row |= {} if self.waiting is None else {"data_wait": min(share, 1.0)}
        row["time"] = time.time()
        # A run that an older version began keeps its columns.
        writer = csv.DictWriter(self.file, fieldnames=self.columns or list(row), extrasaction="ignore")
        if self.columns is None:
            self.columns = writer.fieldnames
            writer.writeheader()
        writer.writerow(row)
        self.file.flush()
        if self.bar is None:
            values = "  ".join(f"{name} {value:.4g}" for name, value in logs.items())
            left = (self.steps - step) * (now - self.started) / max(step - self.start, 1)
            print(f"step {step}/{self.steps}  {values}  {speed:.1f} images/s  {duration(left)} left", flush=True)

    def _waited(self):
        return 0.0 if self.waiting is None else self.waiting.seconds

    def on_train_end(self, logs=None):
        self.close()

    def close(self):
        if self.bar is not None:
            self.bar.close()
        if self.file is not None:
            with contextlib.suppress(OSError):  # a row that found no space, which was told when it was written
                self.file.close()


def _drop_rows_after(path, step):
    """Removes the rows after a step; returns the names of the columns, `None` if there are none yet."""
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    # A run killed while it wrote leaves half a row.
    whole = [row for row in rows[1:] if len(row) == len(rows[0]) and row[0].isdigit() and int(row[0]) <= step]

    def write(file):
        file.write("".join(",".join(row) + "\r\n" for row in [rows[0], *whole]).encode())

    if not rows:
        return None
    pictures.save_atomically(path, write)
    return rows[0]


def duration(seconds):
    """Returns a time such as `1 h 05 min` or `40 s`."""
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class SampleGrids(keras.callbacks.Callback):
    """Draws the images of the same seeds every `every` steps into `directory/step_NNNNNNNN.png`."""

    def __init__(self, directory, every):
        super().__init__()
        self.directory = Path(directory)
        self.every = every

    def on_train_begin(self, logs=None):
        if self.model.steps_done == 0:
            self.draw()

    def on_train_batch_end(self, batch, logs=None):
        if self.model.steps_done % self.every == 0:
            self.draw()

    def on_train_end(self, logs=None):
        self.draw()

    def draw(self):
        path = self.directory / f"step_{self.model.steps_done:08d}.png"
        pictures.save_grid(path, to_uint8(samples(self.model)))


def samples(model):
    """Returns what the grids show: the images of the first seeds; of a conditional model 8 a class, a class a row."""
    if model.num_classes is None:
        return model.sample(NUM_SAMPLES, SAMPLE_SEED)
    rows = min(model.num_classes, MOST_CLASSES)
    return np.concatenate([model.sample(NUM_COLUMNS, SAMPLE_SEED, labels=label) for label in range(rows)])


class Checkpoints(keras.callbacks.Callback):
    """Saves the whole state every `every` steps and at the end."""

    def __init__(self, directory, every):
        super().__init__()
        self.directory = directory
        self.every = every
        self.saved = None

    def on_train_batch_end(self, batch, logs=None):
        if self.model.steps_done % self.every == 0:
            self.save()

    def on_train_end(self, logs=None):
        self.save()

    def save(self):
        step = self.model.steps_done
        if self.saved != step:
            for key, variable in checkpoint.variables(self.model).items():
                if not np.isfinite(np.asarray(variable)).all():  # the losses of this step came before its update
                    what = f"{key} is not finite after step {step}, though the losses were."
                    raise _not_finite(what, self.directory)
            checkpoint.save(self.model, self.directory)
            self.saved = step


class StopOnSignal(keras.callbacks.Callback):
    """Ends the training after the current step on Ctrl-C (SIGINT) or SIGTERM; `received` holds the signal's number.

    A second Ctrl-C does not wait for the step.

    Args:
        devices: The run's `training.devices.Devices`: several workers stop at the same step.
    """

    def __init__(self, devices):
        super().__init__()
        self.devices = devices
        self.received = None
        self._previous = {}

    def on_train_begin(self, logs=None):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        os.write(2, b"\nStopping after this step; its state will be saved.\n")

    def on_train_batch_end(self, batch, logs=None):
        if self.devices.num_workers > 1:
            if (batch + 1) % AGREE_EVERY == 0 and self.devices.any(self.received is not None):
                self.received = self.received or signal.SIGTERM
                self.model.stop_training = True
        elif self.received is not None:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.close()

    def close(self):
        """Gives the signals back to who had them."""
        while self._previous:
            signal.signal(*self._previous.popitem())


class Exports(keras.callbacks.Callback):
    """Calls `export()` every `every` steps, but not at the last one."""

    def __init__(self, export, every, steps):
        super().__init__()
        self.export = export
        self.every = every
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        step = self.model.steps_done
        if step % self.every == 0 and step != self.steps:
            self.export()


class TensorBoardLog(keras.callbacks.Callback):
    """Writes scalars and sample grids for TensorBoard (the extra `tensorboard`)."""

    def __init__(self, directory, every, sample_every):
        super().__init__()
        self.directory = str(directory)
        self.every = every
        self.sample_every = sample_every

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self.writer = tf.summary.create_file_writer(self.directory)

    def on_train_batch_end(self, batch, logs=None):
        import tensorflow as tf

        step = self.model.steps_done
        with self.writer.as_default(step=step):
            if step % self.every == 0:
                for name, value in logs.items():
                    tf.summary.scalar(name, value)
            if step % self.sample_every == 0:
                images = to_uint8(samples(self.model))
                tf.summary.image("samples", pictures.grid(images)[None])

    def on_train_end(self, logs=None):
        self.writer.close()
