"""Requests that TensorFlow Serving runs while it loads a version, so that the first request of a user finds it warm.

The format is TensorFlow Serving's: a TFRecord of `PredictionLog` in `assets.extra/tf_serving_warmup_requests`, at
most 1,000 of them. Only real requests count: each signature builds its kernels at its own first call.
"""

import sys
from pathlib import Path

import numpy as np

FILE = Path("assets.extra", "tf_serving_warmup_requests")
BATCH_SIZES = (1, 8)


def write_requests(directory, name, signatures, batch_sizes=BATCH_SIZES):
    """Writes the warm-up requests of an export: every signature at every batch size.

    Args:
        directory: Directory of the version.
        name: Name of the model.
        signatures: What `model.json` says of them: `{signature: {"inputs": {tensor: {"dtype", "shape", "range"}}}}`.
        batch_sizes: Rows of the requests.

    Returns:
        The file, or `None` where tensorflow-serving-api is not installed: a note says so, and the export serves all
        the same, with a slow first request.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "tensorflow_serving":
            raise
        print(
            f"note: {name} is exported without warm-up requests for TensorFlow Serving, as tensorflow-serving-api is "
            "not installed: pip install --no-deps -r requirements-nodeps.txt",
            file=sys.stderr,
        )
        return None
    import tensorflow as tf

    path = Path(directory) / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, described in signatures.items():
            for rows in batch_sizes:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                for tensor, info in described["inputs"].items():
                    request.inputs[tensor].CopyFrom(tf.make_tensor_proto(typical_values(tensor, info, rows)))
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())
    return path


def typical_values(tensor, info, rows):
    """Returns `rows` values of an input such as a client sends: normal latents, different seeds, noise for images."""
    shape = [rows, *info["shape"][1:]]
    generator = np.random.default_rng(0)
    if tensor == "z":
        return generator.standard_normal(shape, info["dtype"])
    if tensor == "images":
        return generator.integers(0, 256, shape, info["dtype"])
    if tensor == "seed":
        return np.arange(rows, dtype=info["dtype"])
    if tensor == "truncation":
        return np.ones(shape, info["dtype"])
    if tensor == "label":
        return np.zeros(shape, info["dtype"])  # a class that every conditional model has
    raise ValueError(f"An input must be z, images, seed, truncation or label to be warmed up. Received: {tensor!r}.")
