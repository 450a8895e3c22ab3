"""Trains tiny models as one of several replicas and writes what came of it: run by `test_devices.py`, a process each.

`python -m tests.training.replica_worker CASES.json FOLDER`: each case says what to train; worker N writes
`FOLDER/NAME.N.npz` (the variables after step 1 as `first/KEY`, after the last one as `last/KEY`) and `FOLDER/NAME.N.json`.
"""

import json
import sys
from pathlib import Path

import numpy as np


def image_set(count=24, side=32):
    from training import data

    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    hashes = np.arange(count, dtype=np.uint64)
    return data.ImageSet(images, np.zeros(count, np.int32), (), [str(i) for i in range(count)], hashes, "0")


def state(model):
    from zoo import checkpoint

    return {key: np.asarray(variable) for key, variable in checkpoint.variables(model).items()}


def train(case, where):
    import keras

    import zoo
    from training import data
    from zoo import replicas

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(case.get("precision", "float32"))
    with where.scope():
        model = zoo.create(case["arch"], (32, 32, 3), **case.get("hyperparameters", {}))
        if case.get("sync_batch_norm", True):  # of one replica too: the fused kernels round otherwise
            replicas.synchronize_batch_norm(model)
        optimizers = {}
        if case.get("learning_rate"):
            names = ("d_optimizer", "g_optimizer") if hasattr(model, "discriminator") else ("optimizer",)
            optimizers = {name: keras.optimizers.SGD(case["learning_rate"]) for name in names}
        model.compile(**optimizers, jit_compile=case.get("jit", False), accumulate=case.get("accumulate", 1))
    num_updates = getattr(model, "discriminator_steps", 1)
    before, after, losses = state(model), {}, []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                after.update(state(model))
            losses.append({name: float(value) for name, value in logs.items()})

    def batches(**shards):
        return data.batches(image_set(), 8 * num_updates, seed=1, num_updates=num_updates, **shards)

    steps = case.get("steps", 5)
    model.fit(where.batches(batches), steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[Keep()], shuffle=False)
    groups = {"before": before, "first": after, "last": state(model)}
    return {f"{group}/{key}": value for group, values in groups.items() for key, value in values.items()}, losses


def main(cases, folder, virtual_devices=1):
    import tensorflow as tf

    from training import devices

    tf.config.threading.set_intra_op_parallelism_threads(1)
    if virtual_devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * virtual_devices)
    where = devices.choose("mirrored" if virtual_devices > 1 else "auto")
    for name, case in json.loads(Path(cases).read_text()).items():
        arrays, losses = train(case, where)
        np.savez(Path(folder) / f"{name}.{where.worker}.npz", **arrays)
        (Path(folder) / f"{name}.{where.worker}.json").write_text(json.dumps(losses))
    where.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1)
