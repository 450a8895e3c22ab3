"""What a training step does when it runs on several replicas (devices or machines), or in several parts.

Images, draws and losses are shared out so that the replicas together compute what one would: a replica takes its part
of each update's images and of each draw (`zoo.randomness`), and its loss is divided by the number of parts, since
gradients are added up. All that no gradient moves is computed alike on every replica, or averaged here.
"""

import keras
import tensorflow as tf

from zoo.layers import batch_norms, moving_statistics


def count():
    """Returns how many replicas train together: 1 outside a `tf.distribute` strategy."""
    return tf.distribute.get_replica_context().num_replicas_in_sync


def accumulated(gradient_function, inputs, num_parts):
    """Runs `gradient_function` on equal parts of a replica's images and adds up the gradients.

    Args:
        gradient_function: From the inputs' rows and the part's number over all replicas (an int32 scalar) to
            `(gradients, logs)`.
        inputs: Tensors of the same first axis, or `None`s, which are passed on.
        num_parts: Number of parts.

    Returns:
        `(gradients, logs)`: sums and means. Where the function returns more, the rows of all parts.
    """
    first = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32) * num_parts
    total, logs, others = [], {}, []
    for number in range(num_parts):
        with tf.control_dependencies(total):  # one part after another: side by side they would save no memory
            rows, part = [_part(each, number, num_parts) for each in inputs], first + number
        gradients, part_logs, *rest = gradient_function(*rows, part)
        others.append(rest)
        total = [a + b for a, b in zip(total, gradients, strict=True)] if total else gradients
        logs = {name: logs.get(name, 0.0) + value / num_parts for name, value in part_logs.items()}
    if count() > 1:  # outputs of a function have no device, which collectives ask for
        total = [tf.identity(each) for each in total]
    return (total, logs, *(tf.concat(each, axis=0) for each in zip(*others, strict=True)))


def _part(tensor, number, num_parts):
    if tensor is None or num_parts == 1:
        return tensor
    rows = tensor.shape[0] // num_parts
    return tensor[number * rows : (number + 1) * rows]


def agreeing(gradients, optimizer):
    """Returns gradients that are finite on every replica or on none, so that loss scaling skips a step everywhere.

    `keras.optimizers.LossScaleOptimizer` looks at each replica's gradients before they are added up.
    """
    if count() == 1 or not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return gradients
    marks = tf.add_n([tf.reduce_sum(gradient * 0.0) for gradient in gradients])  # 0, or not a number
    mark = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, marks)
    return [gradient + mark for gradient in gradients]


def average_statistics(*networks):
    """Gives every replica the mean of the replicas' moving statistics of batch norm."""
    average_variables(moving_statistics(layer for layer in batch_norms(*networks) if not layer.synchronized))


def average_variables(variables):
    """Gives every replica the mean of the replicas' values of some float32 variables."""
    if count() == 1 or not variables:
        return
    values = [tf.identity(tf.convert_to_tensor(variable)) for variable in variables]
    means = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, values)
    for variable, mean in zip(variables, means, strict=True):
        variable.assign(mean)


def reducible(logs):
    """Returns logs of scalars in the form that Keras can average over replicas.

    Keras reduces over the first axis under `MultiWorkerMirroredStrategy`, which a scalar has not.
    """
    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: tf.reshape(value, [1]) for name, value in logs.items()}


def jit_compiles(asked):
    """Returns whether XLA is to compile: as `asked` (a bool), or for `auto` where there is a GPU.

    On CPUs oneDNN's convolutions are faster than XLA's (docs/performance.md), and nothing has to be compiled first.
    """
    return bool(tf.config.list_physical_devices("GPU")) if asked == "auto" else asked


def compiled(model, function, jit_compile):
    """Returns `function` as a `tf.function`, or as it is where its batch norm is synchronized.

    The synchronization over replicas has to be in the graph of the whole step: in a function inside of it, and by XLA,
    TensorFlow refuses it.
    """
    if any(layer.synchronized for layer in batch_norms(*model.networks.values())):
        return function
    return tf.function(function, jit_compile=jit_compile)


def synchronize_batch_norm(model):
    """Makes batch norm compute its statistics over the global batch in place of each replica's part of it.

    To be called under the strategy, before `compile`.

    Returns:
        How many layers that concerns.
    """
    found = batch_norms(*model.networks.values())
    for layer in found:
        layer.synchronized = True
    return len(found)
