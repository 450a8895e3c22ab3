"""The warm-up requests of an export: read by TensorFlow Serving's own protos, and run as it would run them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from training.warmup import BATCH_SIZES, typical_values, write_requests

REPOSITORY = Path(__file__).parents[2]


def read_requests(path):
    """Returns the PredictRequests of a warm-up file."""
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    assert len(records) <= 1000, "TensorFlow Serving reads no more"
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    return [log.predict_log.request for log in logs]


@pytest.mark.parametrize("name", ["faces", "shapes"])
def test_every_signature_is_run_at_every_batch_size(saved_models, tmp_path, name):
    export = saved_models / name / "1"
    described = json.loads((export / "model.json").read_text())["signatures"]
    path = write_requests(tmp_path, name, described)
    assert path == tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    requests = read_requests(path)
    signatures = tf.saved_model.load(str(export)).signatures
    ran = []
    for request in requests:
        assert request.model_spec.name == name and not request.model_spec.HasField("version")
        feeds = {tensor: tf.make_ndarray(value) for tensor, value in request.inputs.items()}
        outputs = signatures[request.model_spec.signature_name](
            **{tensor: tf.constant(value) for tensor, value in feeds.items()}
        )
        rows = {len(value) for value in (*feeds.values(), *outputs.values())}
        assert len(rows) == 1
        ran.append((request.model_spec.signature_name, rows.pop()))
    assert sorted(ran) == sorted((signature, rows) for signature in signatures for rows in BATCH_SIZES)


def test_the_values_are_such_as_a_client_sends():
    z = typical_values("z", {"dtype": "float32", "shape": [None, 500]}, 8)
    assert z.shape == (8, 500) and z.dtype == np.float32 and abs(z.std() - 1) < 0.1 and len(np.unique(z)) > 3000
    images = typical_values("images", {"dtype": "uint8", "shape": [None, 8, 8, 3]}, 2)
    assert images.shape == (2, 8, 8, 3) and images.dtype == np.uint8 and images.min() < 50 and images.max() > 200
    seeds = typical_values("seed", {"dtype": "int64", "shape": [None]}, 4)
    assert seeds.tolist() == [0, 1, 2, 3] and seeds.dtype == np.int64
    assert typical_values("truncation", {"dtype": "float32", "shape": [None]}, 2).tolist() == [1, 1]
    assert typical_values("label", {"dtype": "int64", "shape": [None]}, 2).tolist() == [0, 0]
    with pytest.raises(ValueError, match="'depth'"):
        typical_values("depth", {"dtype": "float32", "shape": [None]}, 1)


def test_without_tensorflow_serving_api_there_is_a_note_and_no_file(tmp_path):
    code = (
        "import sys; sys.modules['tensorflow_serving'] = None; from training.warmup import write_requests; "
        "print(write_requests(sys.argv[1], 'm', {'latents': {'inputs': {'seed': {'dtype': 'int64', 'shape': [None]}}}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "None", done.stderr
    assert done.stderr.count("\n") == 1 and "requirements-nodeps.txt" in done.stderr
    assert not list(tmp_path.iterdir())
