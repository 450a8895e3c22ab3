"""What a run trains on: one device, all GPUs of a machine, or several machines, by TensorFlow's own strategies.

The batch size is that of all replicas together. Each replica reads its part of every batch from the same pure order
(`training.data.batches`), so that how many there are decides nothing but rounding and the statistics of batch norm.
Only the chief, worker 0, reads and writes the run directory; the others take their weights from it.
"""

import contextlib
import json
import os
import re
import zlib

STRATEGIES = ("auto", "one", "mirrored", "multiworker")


def check(name):
    """Raises `ValueError` if the environment does not fit the strategy; imports nothing."""
    if _place() is None and name == "multiworker":
        raise ValueError(
            "--strategy multiworker takes the addresses of the workers from TF_CONFIG, or from Slurm (srun). Neither "
            "is set: see docs/scaling.md, or use --strategy auto"
        )


def _place():
    """Returns `(number of this worker, number of workers)` as the environment tells, `None` where it tells nothing."""
    text = os.environ.get("TF_CONFIG")
    if text:
        try:
            config = json.loads(text)
            workers = config["cluster"]["worker"]
            kind, index = config["task"]["type"], int(config["task"]["index"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                'TF_CONFIG must be like {"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": '
                f'"worker", "index": 0}}}}. Received: {text!r} ({type(error).__name__}: {error})'
            ) from None
        if kind != "worker" or not 0 <= index < len(workers):
            raise ValueError(
                f"TF_CONFIG must name a task of type worker from 0 to {len(workers) - 1}: every worker trains, and worker "
                f"0 writes. Received: {kind} {index}"
            )
        return index, len(workers)
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if not tasks.isdigit() or int(tasks) < 2:
        return None
    return int(os.environ["SLURM_PROCID"]), int(tasks)


def is_multiworker(name):
    """Returns whether a strategy means several processes here."""
    return name == "multiworker" or (name == "auto" and (_place() or (0, 1))[1] > 1)


def is_chief(name):
    """Returns whether this process writes, as the environment tells."""
    return not is_multiworker(name) or _place()[0] == 0


def choose(name):
    """Returns the `Devices` of a strategy. Must be called before TensorFlow runs anything."""
    import tensorflow as tf

    if is_multiworker(name):
        if os.environ.get("TF_CONFIG"):
            resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        else:
            resolver = _slurm_resolver()
        return Devices(tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver), *_place())
    gpus = [] if name == "one" else tf.config.list_logical_devices("GPU")
    if name == "mirrored" or len(gpus) > 1:
        devices = gpus or tf.config.list_logical_devices("CPU")
        return Devices(tf.distribute.MirroredStrategy([device.name for device in devices]))
    return Devices(None)


def _slurm_resolver():
    """Returns the resolver of a Slurm step: TensorFlow's reading of its variables, with three things put right."""
    import tensorflow as tf

    worker, num_workers = _place()
    # Another port for each job: two may share a machine. Below those that the system gives to clients.
    port = 15_000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 15_000
    # It fails where there are no GPUs, and shares them out once TensorFlow has taken them: each task uses what it sees.
    spec = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=port, gpus_per_node=num_workers, gpus_per_task=1, auto_set_gpu=False
    ).cluster_spec()
    # It sorts n10 before n9, and Slurm numbers the tasks the other way round.
    addresses = sorted(spec.job_tasks("worker"), key=lambda text: [int(part) if part.isdigit() else part
                                                                   for part in re.split(r"(\d+)", text)])  # fmt: skip
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}),
        task_type="worker",
        task_id=worker,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )


class Devices:
    """The replicas of a run, as this process sees them.

    Args:
        strategy: A `tf.distribute` strategy, or `None` for one device.
        worker: Number of this process among those of the job.
        num_workers: Processes of the job.

    Attributes:
        num_replicas: Over all machines.
        is_chief: Whether this process writes.
    """

    def __init__(self, strategy, worker=0, num_workers=1):
        self.strategy = strategy
        self.worker = worker
        self.num_workers = num_workers
        self.num_replicas = 1 if strategy is None else strategy.num_replicas_in_sync
        self.is_chief = worker == 0
        self._sum = None

    def __str__(self):
        if self.num_replicas == 1:
            return "one device"
        each = self.num_replicas // self.num_workers
        devices = f"{each} device{'s' if each > 1 else ''}"
        if self.num_workers == 1:
            return devices
        return f"{self.num_workers} workers of {devices}, this is worker {self.worker}"

    def scope(self):
        """Returns the context in which the model is made and trained."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def check_batch_size(self, batch_size, accumulate):
        """Raises `ValueError` unless the batch can be shared out."""
        parts = self.num_replicas * accumulate
        if batch_size % parts:
            nearest = max(parts, batch_size // parts * parts)
            raise ValueError(
                f"--batch-size is over all devices, and must be divisible by the {self.num_replicas} replica"
                f"{'s' if self.num_replicas > 1 else ''} times --accumulate {accumulate}. Received: {batch_size}; try {nearest}"
            )

    def batches(self, make):
        """Returns the dataset that `fit` takes.

        Args:
            make: From `shard_index`, `shard_count` and `num_shards` (see `training.data.batches`) to a dataset.
        """
        if self.strategy is None:
            return make(shard_index=0, shard_count=1, num_shards=1)
        local = self.num_replicas // self.num_workers

        def of_worker(context):
            return make(shard_index=context.input_pipeline_id * local, shard_count=self.num_replicas, num_shards=local)

        return self.strategy.distribute_datasets_from_function(of_worker)

    def check_equal(self, what, text):
        """Raises `ValueError` on every worker unless all of them have the same text."""
        own = zlib.crc32(text.encode())
        found = self._sums([own * (worker == self.worker) for worker in range(self.num_workers)])
        if len(set(found)) > 1:
            raise ValueError(
                f"The workers differ in the {what}: give the same command and the same images to all of them"
            )

    def broadcast_state(self, model):
        """Gives every worker the chief's state of a compiled model: weights, optimizers, step."""
        if self.num_workers == 1:
            return
        import tensorflow as tf

        from zoo import checkpoint

        def chiefs(values):
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group == 0
            received = {}
            for dtype in sorted({value.dtype.name for value in values}):  # one collective takes one type
                kept = {i: each for i, each in enumerate(values) if each.dtype.name == dtype}
                kept = {i: tf.where(first, each, tf.zeros_like(each)) for i, each in kept.items()}
                sums = context.all_reduce(tf.distribute.ReduceOp.SUM, list(kept.values()))
                received |= dict(zip(kept, sums, strict=True))
            return [received[i] for i in range(len(values))]

        def run(values):
            return self.strategy.run(chiefs, args=(values,))

        variables = list(checkpoint.variables(model).values())
        received = tf.function(run)([tf.convert_to_tensor(variable) for variable in variables])
        for variable, value in zip(variables, received, strict=True):
            variable.assign(self.strategy.experimental_local_results(value)[0])

    def wait(self):
        """Returns when all workers are here: the first to leave would end the job of the others."""
        self.any(False)

    def any(self, flag):
        """Returns whether a flag is set on any worker. All of them must ask."""
        return self._sums([int(flag)])[0] > 0

    def _sums(self, values):
        """Returns the sums over all workers of some integers."""
        if self.num_workers == 1:
            return values
        import tensorflow as tf

        if self._sum is None:

            def total(values):
                # Made here, the tensor is on the replica's device, which the collective asks for.
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

            def run(values):
                return self.strategy.run(total, args=(values,))

            self._sum = tf.function(run, reduce_retracing=True)
        # One replica of a worker speaks for it.
        local = self.num_replicas // self.num_workers
        sums = self.strategy.experimental_local_results(self._sum(tf.constant(values, tf.int64)))[0]
        return (sums.numpy() // local).tolist()
