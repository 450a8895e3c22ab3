"""Exports small enough to serve in a test, and a server that serves them in a process of its own.

`saved_models` holds two models: `faces`, an SN-GAN of 32 pixels with real images and a report beside it, as the project
exports one, and `shapes`, conditional with three classes, written with TensorFlow alone.
"""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 300
CLASS_NAMES = ["circle", "square", "star"]
CREDIT = "Somebody, CC0"

# Runs the server where neither the rest of the project nor Keras can be imported. TensorFlow asks where Keras lies, and
# does without it.
ALONE = """
import importlib.machinery, runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("zoo", "training", "evaluation", "keras"):
            return importlib.machinery.ModuleSpec(name, self, origin="/nowhere/__init__.py", is_package=True)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise ImportError(f"{module.__name__} is not to be had here")

sys.meta_path.insert(0, Blocked())
runpy.run_module("serving.app", run_name="__main__", alter_sys=True)
"""


@dataclasses.dataclass
class Server:
    """A running `python -m serving.app`."""

    url: str
    process: subprocess.Popen
    log: Path
    models: Path

    def read_log(self):
        """Returns what it wrote so far, to stdout and stderr."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, seconds=60):
        """Sends SIGTERM and returns the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=seconds)


@contextlib.contextmanager
def running_server(models, *options, log, ready=True, environment=None):
    """Starts a server on a free port, which can import nothing of the zoo; stops it at the end."""
    command = [sys.executable, "-c", ALONE, "--models", str(models), "--port", "0", *map(str, options)]
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "2", "PYTHONUNBUFFERED": "1", **(environment or {})}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, env=environment, stdin=subprocess.DEVNULL
        )
    server = Server("", process, Path(log), Path(models))
    try:
        server.url = wait_for(lambda: re.search(r"http://[\w.:\[\]]+:\d+", server.read_log()), server).group()
        if ready:
            wait_for(lambda: status_of(f"{server.url}/readyz") == 200, server)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition, server=None, seconds=START_SECONDS):
    """Returns the first true value of `condition()`; fails when the server ended or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        if server is not None and server.process.poll() is not None:
            pytest.fail(f"The server ended with status {server.process.returncode}:\n{server.read_log()}")
        time.sleep(0.05)
    pytest.fail(f"Not so after {seconds} s:\n{server.read_log() if server else condition}")


def status_of(url):
    """Returns the HTTP status of a GET; 0 where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="session", name="running_server")
def running_server_fixture():
    """`running_server`, for fixtures that live longer than a test."""
    return running_server


@pytest.fixture(scope="session", name="wait_for")
def wait_for_fixture():
    """`wait_for`, for tests."""
    return wait_for


@pytest.fixture(scope="session", name="export_shapes")
def export_shapes_fixture():
    """`export_shapes`, for tests."""
    return export_shapes


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory):
    """A directory of exports, to be read only."""
    directory = tmp_path_factory.mktemp("exports") / "saved_models"
    export_faces(directory)
    export_shapes(directory)
    return directory


@pytest.fixture(scope="session")
def models(saved_models):
    """`{name: the export as TensorFlow itself loads it}`."""
    import tensorflow as tf

    return {name: tf.saved_model.load(str(saved_models / name / "1")) for name in ("faces", "shapes")}


@pytest.fixture(scope="session")
def server(saved_models, tmp_path_factory):
    """One server of `saved_models` for all tests that change nothing."""
    with running_server(saved_models, log=tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def front(server, saved_models, tmp_path_factory):
    """A server that computes nothing itself, in front of the other one."""
    with running_server(saved_models, "--upstream", server.url, log=tmp_path_factory.mktemp("front") / "log") as front:
        yield front


@pytest.fixture
def start_server(tmp_path):
    """A function `(models, *options, ready=True, environment=None)` that starts another server."""
    with contextlib.ExitStack() as stack:
        started = []

        def start(models, *options, **keywords):
            log = tmp_path / f"server-{len(started)}.log"
            started.append(stack.enter_context(running_server(models, *options, log=log, **keywords)))
            return started[-1]

        yield start


def export_faces(directory):
    """Exports an untrained SN-GAN, with real images and a report."""
    import zoo
    from training.export import export

    model = zoo.create("sngan", image_shape=(32, 32, 3), base_filters=4, latent_dim=8)
    reals = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    training = {"data": "/home/somebody/private/photos", "num_images": 100, "steps": 0, "class_names": []}
    version = export(model, directory, "faces", record={"training": training}, reals=reals, credit=CREDIT)
    report = {
        "name": "faces",
        "command": "python -m evaluation.report --model saved_models/faces --data /home/somebody/private/photos",
        "metrics": {"kid": {"label": "KID", "value": 0.05}},
    }
    (version / "assets.extra" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return version


def export_shapes(directory, version=1, classes=CLASS_NAMES, side=16, latent_dim=4, shade=0.0):
    """Exports a conditional model whose images are a fixed function of latent and class.

    Args:
        directory: Where exports lie.
        version: Number of the version; it is renamed into place when it is complete.
        classes: Names of the classes.
        side: Side of the images in pixels.
        latent_dim: Length of a latent.
        shade: Added to every value, so that two versions differ.
    """
    import tensorflow as tf

    class Shapes(tf.Module):
        def __init__(self):
            random = np.random.default_rng(7)
            self.embedding = tf.Variable(random.normal(size=(len(classes), latent_dim)), dtype=tf.float32)
            self.kernel = tf.Variable(random.normal(size=(latent_dim, side * side * 3)), dtype=tf.float32)

        def latents_of(self, seed):
            def draw(one):
                return tf.random.stateless_normal([latent_dim], tf.bitcast(one, tf.int32))

            return tf.map_fn(draw, seed, fn_output_signature=tf.float32)

        def generate(self, z, label):
            z = z + tf.gather(self.embedding, label)
            return tf.tanh(tf.reshape(z @ self.kernel, [-1, side, side, 3]) + shade)

        def pixels(self, seed, truncation, label):
            images = self.generate(self.latents_of(seed) * truncation[:, None], label)
            return tf.cast(tf.round((images + 1.0) * 127.5), tf.uint8)

    module = Shapes()
    z = tf.TensorSpec([None, latent_dim], tf.float32, name="z")
    seed, label = (tf.TensorSpec([None], tf.int64, name=name) for name in ("seed", "label"))
    truncation = tf.TensorSpec([None], tf.float32, name="truncation")
    images = tf.TensorSpec([None, side, side, 3], tf.uint8, name="images")
    endpoints = {
        "serving_default": (lambda z, label: {"images": module.generate(z, label)}, [z, label]),
        "latents": (lambda seed: {"z": module.latents_of(seed)}, [seed]),
        "sample": (
            lambda seed, truncation, label: {"images": module.pixels(seed, truncation, label)},
            [seed, truncation, label],
        ),
        "sample_png": (
            lambda seed, truncation, label: {
                "image_bytes": tf.map_fn(
                    tf.io.encode_png, module.pixels(seed, truncation, label), fn_output_signature=tf.string
                )
            },
            [seed, truncation, label],
        ),
        "discriminate": (
            lambda images, label: {
                "logits": tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2, 3]) + tf.cast(label, tf.float32)
            },
            [images, label],
        ),
    }
    signatures = {name: tf.function(function, input_signature=specs) for name, (function, specs) in endpoints.items()}
    root = Path(directory) / "shapes"
    temporary = root / f".writing-{version}"
    tf.saved_model.save(module, str(temporary), signatures=signatures)
    card = {
        "arch": "shapes",
        "variant": None,
        "image_shape": [side, side, 3],
        "step": 10 * version,
        "created": "2026-01-01T00:00:00Z",
        "class_names": list(classes),
        "signatures": {
            name: {
                "inputs": {spec.name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()} for spec in specs},
                "outputs": {},
            }
            for name, (_, specs) in endpoints.items()
        },
        "training": {"class_names": list(classes)},
    }
    (temporary / "model.json").write_text(json.dumps(card), encoding="utf-8")
    target = root / str(version)
    temporary.rename(target)
    return target
