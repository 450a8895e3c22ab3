"""The cases of `benchmarks.quality` in this project's own code: models trained for so many steps, or so much time."""

import json
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import batch_indices
from benchmarks.ours import parameters

KEEP_EVERY = 60.0  # seconds of the processors between checkpoints


def by_steps(images, arch, steps, batch_size, seed, samples, count, **hyperparameters):
    """Trains on uint8 images (a `.npy` file) for some steps; then `samples` holds `count` images of the average."""
    pictures = np.load(images)
    model = _model(pictures.shape[1:], arch, seed, steps, hyperparameters)

    def step():
        logs = _train(model, pictures, batch_size, seed, lambda done: done < steps)
        _save_samples(samples, model, count)
        return logs

    return step, {"parameters": parameters(model)}


def by_minutes(images, arch, marks, batch_size, seed, folder, count, **hyperparameters):
    """Trains until so many minutes of the processors are used up; `folder/samples_MARK.npy` is what it draws at each.

    What draws, saves and compiles is not counted. A process that is killed goes on from the last checkpoint.

    Args:
        images: uint8 `[n, side, side, 3]` in a `.npy` file.
        arch: Of the zoo.
        marks: Minutes, rising.
        batch_size: Images an update.
        seed: Of weights, noise and order.
        folder: Of checkpoints, samples and `state.json`.
        count: Images to draw at each mark.
        hyperparameters: Of the architecture.
    """
    from zoo import checkpoint

    pictures, folder = np.load(images), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state_file = folder / "state.json"
    if state_file.exists():
        state = json.loads(state_file.read_text(encoding="utf-8"))
    else:  # how many steps that will be, which a learning rate that falls to 0 has to know
        trial = _model(pictures.shape[1:], arch, seed, 1_000, hyperparameters)
        _train(trial, pictures, batch_size, seed, lambda done: done < 3)
        start = time.process_time()
        _train(trial, pictures, batch_size, seed, lambda done: done < 13)
        seconds = (time.process_time() - start) / 10
        state = {"steps": int(60 * marks[-1] / seconds), "seconds": 0.0, "marks": {}}
    model = _model(pictures.shape[1:], arch, seed, state["steps"], hyperparameters)
    checkpoint.restore_newest(model, folder / "checkpoints")
    _step_of(model, batch_size)  # traced before the clock runs

    def step():
        for mark in marks:
            while state["seconds"] < 60 * mark:
                start, length = time.process_time(), min(60 * mark - state["seconds"], KEEP_EVERY)
                end = start + length
                _train(model, pictures, batch_size, seed, lambda _, end=end: time.process_time() < end)
                state["seconds"] += time.process_time() - start
                checkpoint.save(model, folder / "checkpoints")
                _write(state_file, state)
            if str(mark) not in state["marks"]:
                _save_samples(folder / f"samples_{mark}.npy", model, count)
                state["marks"][str(mark)] = model.steps_done
                _write(state_file, state)
        return {"steps": state["marks"]}

    return step, {"parameters": parameters(model)}


def _model(shape, arch, seed, steps, hyperparameters):
    from training.fit import import_tensorflow

    import_tensorflow()
    import keras

    import zoo

    keras.utils.set_random_seed(seed)
    model = zoo.create(arch, tuple(shape), seed=seed, **hyperparameters)
    model.compile(steps=steps, steps_per_epoch=100)
    return model


def _step_of(model, batch_size):
    """Returns the traced step of a model, and how many images it takes; traces it the first time."""
    import tensorflow as tf

    count = batch_size * getattr(model, "discriminator_steps", 1)
    if not hasattr(model, "traced_step"):
        signature = tf.TensorSpec([count, *model.image_shape], tf.float32)
        traced = tf.function(model.train_step).get_concrete_function(signature)
        object.__setattr__(model, "traced_step", traced)
    return model.traced_step, count


def _train(model, pictures, batch_size, seed, goes_on):
    """Takes steps while `goes_on(steps done)`; returns the last one's losses."""
    import tensorflow as tf

    from training.data import to_model_range

    step, count = _step_of(model, batch_size)
    done, logs = model.steps_done, {}
    while goes_on(done):
        batch = to_model_range(pictures[batch_indices(len(pictures), count, done, seed)])
        logs = step(tf.constant(batch))
        done += 1
    return {name: float(value) for name, value in logs.items()}


def _save_samples(path, model, count):
    from training.data import to_uint8

    np.save(path, to_uint8(model.sample(count, seed=0)))


def _write(path, state):
    from training.pictures import save_atomically

    save_atomically(path, lambda file: file.write(json.dumps(state).encode()))
