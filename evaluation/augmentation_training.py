"""One classifier of an augmentation study: a fixed number of optimizer steps, the best checkpoint by validation."""

import dataclasses
import time

import keras
import numpy as np
import tensorflow as tf

from evaluation import classifiers
from evaluation.augmentation_regimes import classical_layers
from training import data

NUM_VALIDATIONS = 20  # over the training, the end included
PREDICT_BATCH = 256
CALIBRATION_STEPS = 4 * NUM_VALIDATIONS


@dataclasses.dataclass(frozen=True)
class Settings:
    """How every classifier of a study is trained.

    Args:
        classifier: One of `classifiers.CLASSIFIERS`.
        weights: File to start from, or `None`.
        steps: Updates of the weights, the same for every regime.
        batch_size: Images an update.
        learning_rate: Of Adam at the start; it falls to 0 at the last step along a cosine.
        classical: Names of the classical augmentations.
    """

    classifier: str
    weights: str | None
    steps: int
    batch_size: int
    learning_rate: float
    classical: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A classifier with the weights of its best checkpoint, and how it came about.

    Args:
        classifier: Keras model.
        optimizer_steps: Updates as the optimizer counted them.
        best_step: When the weights were those kept.
        history: One dict at each validation: `step`, `loss` and `accuracy` (of the train batches since the last one),
            `validation_loss`, `validation_accuracy`.
    """

    classifier: object
    optimizer_steps: int
    best_step: int
    history: list


def train(settings, pool, validation, num_classes, classical, seed, on_step=None):
    """Trains a classifier.

    Args:
        settings: `Settings`.
        pool: `augmentation_regimes.Pool`.
        validation: `ImageSet`.
        num_classes: int.
        classical: Whether to augment the batches.
        seed: Decides the first weights, the order of the images, dropout and augmentation.
        on_step: Called without arguments after each step.

    Returns:
        `Trained`.

    Raises:
        ArithmeticError: If the loss is no longer finite.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    classifier = classifiers.create(settings.classifier, validation.images.shape[1:], num_classes, settings.weights)
    layers = classical_layers(settings.classical, seed) if classical else []
    model = keras.Sequential([keras.Input(classifier.input_shape[1:]), *layers, classifier])
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    best = _BestCheckpoint(classifier, validation, settings.steps, on_step)
    batches = _batches(pool, settings.batch_size, settings.steps, seed)
    model.fit(batches, steps_per_epoch=settings.steps, epochs=1, verbose=0, shuffle=False, callbacks=[best])
    classifier.set_weights(best.weights)
    return Trained(classifier, int(model.optimizer.iterations), best.step, best.history)


def _batches(pool, batch_size, steps, seed):
    """Returns the batches of all steps, float32 in [0, 255] and labels; the order is a pure function of the seed."""

    def read(step):
        places = int(step) * batch_size + np.arange(batch_size)
        indices = data.stream_indices(len(pool), seed, places)
        return pool[indices], pool.labels[indices]

    shape = pool[np.zeros(1, np.int64)].shape[1:]

    def element(step):
        images, labels = tf.numpy_function(read, [step], (tf.uint8, tf.int32), stateful=False)
        images = tf.cast(tf.ensure_shape(images, (batch_size, *shape)), tf.float32)
        return images, tf.ensure_shape(labels, (batch_size,))

    return tf.data.Dataset.range(steps).map(element).prefetch(2)


def predictor(classifier):
    """Returns a function of images uint8 `[n, height, width, channels]` to logits, float32 `[n, classes]`."""
    pixels = tf.TensorSpec([None, *classifier.input_shape[1:]], tf.uint8)
    call = tf.function(lambda images: classifier(tf.cast(images, tf.float32), training=False), input_signature=[pixels])

    def predict(images):
        parts = [images[start : start + PREDICT_BATCH] for start in range(0, len(images), PREDICT_BATCH)]
        return np.concatenate([call(np.asarray(part)).numpy() for part in parts])

    return predict


class _BestCheckpoint(keras.callbacks.Callback):
    """Validates now and then, and keeps the weights with the best accuracy; of equals, those with the least loss."""

    def __init__(self, classifier, validation, steps, on_step):
        super().__init__()
        self.history, self.weights, self.step = [], None, 0
        self._classifier, self._validation, self._on_step = classifier, validation, on_step
        self._predict, self._rank = predictor(classifier), None
        self._due = {round(steps * (i + 1) / NUM_VALIDATIONS) for i in range(NUM_VALIDATIONS)}

    def on_train_batch_end(self, batch, logs=None):
        step = batch + 1
        if self._on_step is not None:
            self._on_step()
        if step not in self._due:
            return
        loss, accuracy = _scores(self._predict(self._validation.images), self._validation.labels)
        if not np.isfinite([loss, logs["loss"]]).all():
            raise ArithmeticError(
                f"The loss of {self._classifier.name} is not finite at step {step:,}. Try a lower --learning-rate."
            )
        self.history.append(
            {
                "step": step,
                "loss": round(float(logs["loss"]), 6),
                "accuracy": round(float(logs["accuracy"]), 6),
                "validation_loss": round(loss, 6),
                "validation_accuracy": round(accuracy, 6),
            }
        )
        if self._rank is None or (accuracy, -loss) > self._rank:
            self._rank, self.step, self.weights = (accuracy, -loss), step, self._classifier.get_weights()
        self.model.reset_metrics()


def _scores(logits, labels):
    """Returns the mean cross-entropy and the accuracy."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    of_label = shifted[np.arange(len(labels)), labels]
    loss = np.mean(np.log(np.exp(shifted).sum(axis=1)) - of_label)
    return float(loss), float(np.mean(logits.argmax(axis=1) == labels))


@dataclasses.dataclass(frozen=True)
class Pace:
    """What a training costs: `overhead` seconds whatever its length, and `step` seconds a step."""

    overhead: float
    step: float

    def seconds(self, steps):
        return self.overhead + steps * self.step


def calibrate(settings, pool, validation, num_classes, classical):
    """Returns the `Pace` of a training, from one of `CALIBRATION_STEPS` steps."""
    stamps = [time.monotonic()]
    short = dataclasses.replace(settings, steps=CALIBRATION_STEPS)
    train(short, pool, validation, num_classes, classical, 0, lambda: stamps.append(time.monotonic()))
    # The quicker steps: those with a validation between them, and the first ones, belong to the overhead.
    step = float(np.percentile(np.diff(stamps), 25))
    return Pace(max(0.0, time.monotonic() - stamps[0] - CALIBRATION_STEPS * step), step)
