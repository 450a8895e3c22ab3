"""SavedModels: what a trained model can do, as signatures that TensorFlow Serving and any program can call.

An export is `DIRECTORY/NAME/VERSION/`, written beside and renamed, never overwritten. It needs nothing of the zoo.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

from training import warmup
from training.data import to_model_range, to_uint8

STALE_SECONDS = 24 * 3600
RANGES = {
    "z": "standard normal",
    "seed": "any int64; the same seed gives the same image",
    "truncation": "0 to 1 (1: as trained; lower: less varied, more typical)",
    "images": {"float32": "[-1, 1]", "uint8": "0 to 255"},
    "logits": "above 0: taken for real",
    "image_bytes": "a PNG file",
    "label": "0 to one less than the number of class_names in model.json",
}


def signatures(model, untrained=()):
    """Returns `{name: (function, input signature)}` of the endpoints of a model; all arguments have a batch axis.

    Those of a conditional model that make or judge images take a `label` as well. There is no `discriminate` where
    `untrained` names the discriminator.
    """
    import tensorflow as tf

    z = tf.TensorSpec([None, model.latent_dim], tf.float32, name="z")
    seed = tf.TensorSpec([None], tf.int64, name="seed")
    truncation = tf.TensorSpec([None], tf.float32, name="truncation")
    images = tf.TensorSpec([None, *model.image_shape], tf.uint8, name="images")
    label = [] if model.num_classes is None else [tf.TensorSpec([None], tf.int64, name="label")]

    def checked(label):
        """Returns the keyword arguments of the model for the label of each image, if it takes one."""
        if label is None:
            return {}
        message = f"label must be from 0 to {model.num_classes - 1}"
        tf.debugging.assert_non_negative(label, message)
        tf.debugging.assert_less(label, tf.constant(model.num_classes, tf.int64), message)
        return {"labels": label}

    def generate(z, label=None):
        return {"images": model.generate(z, **checked(label))}

    def sample(seed, truncation, label=None):
        return {"images": to_uint8(model.generate(model.latents(seed, truncation), **checked(label)))}

    def sample_png(seed, truncation, label=None):
        images = sample(seed, truncation, label)["images"]
        return {"image_bytes": tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)}

    def discriminate(images, label=None):
        return {"logits": model.discriminate(to_model_range(images), **checked(label))}

    endpoints = {
        "serving_default": (generate, [z, *label]),
        "latents": (lambda seed: {"z": model.latents(seed)}, [seed]),
        "sample": (sample, [seed, truncation, *label]),
        "sample_png": (sample_png, [seed, truncation, *label]),
    }
    if hasattr(model, "discriminate") and "discriminator" not in untrained:
        endpoints["discriminate"] = (discriminate, [images, *label])
    if hasattr(model, "encode"):
        endpoints["encode"] = (lambda images: {"z": model.encode(to_model_range(images))}, [images])
        endpoints["decode"] = endpoints["serving_default"]
        endpoints["reconstruct"] = (
            lambda images: {"images": to_uint8(model.reconstruct(to_model_range(images)))},
            [images],
        )
    return endpoints


def export(model, directory, name, *, class_names=(), record=None, reals=None, credit=None, untrained=()):
    """Writes a model as the next version of `directory/name`.

    Args:
        model: A trained `GenerativeModel`.
        directory: Where SavedModels lie, such as `saved_models`.
        name: Name of the model.
        class_names: Names of the classes of a conditional model.
        record: Dict put into `model.json` (data fingerprint, configuration ...).
        reals: uint8 `[n, height, width, channels]`, real images that the training did not see, for
            `assets.extra/reals.npz`.
        credit: Whose the real images are.
        untrained: Names of networks that hold no trained weights: the signatures that need them are left out.

    Returns:
        The directory of the new version.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    import keras

    from zoo import checkpoint
    from zoo.generative import dtype_policy

    root = Path(directory) / name
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(".writing-*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    temporary = root / f".writing-{os.getpid()}-{time.time_ns()}"
    try:
        # Float32 throughout, whatever the precision of the training.
        with dtype_policy("float32"):
            copy = type(model).from_config(model.get_config())
            for target, source in zip(
                checkpoint.variables(copy, networks_only=True).values(),
                checkpoint.variables(model, networks_only=True).values(),
                strict=True,
            ):
                target.assign(source)
            archive = keras.export.ExportArchive()  # it tracks the variables that the endpoints use, and no others
            described = {}
            for endpoint, (function, signature) in signatures(copy, untrained).items():
                archive.add_endpoint(endpoint, function, input_signature=signature)
                described[endpoint] = _describe(function, signature)
            archive.write_out(str(temporary), verbose=False)
        warmup.write_requests(temporary, name, described)
        if reals is not None:
            (temporary / "assets.extra").mkdir(exist_ok=True)
            np.savez_compressed(temporary / "assets.extra" / "reals.npz", images=reals, credit=np.array(credit or ""))
        card = model_card(model, described, class_names) | (record or {})
        (temporary / "model.json").write_text(json.dumps(card, indent=2), encoding="utf-8")
        return _publish(temporary, root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds other versions
            root.rmdir()


def versions(root):
    """Returns the versions of an exported model, ascending."""
    root = Path(root)
    if not root.is_dir():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdigit() and path.is_dir())


def _publish(temporary, root):
    for _ in range(1000):
        target = root / str(max(versions(root), default=0) + 1)
        try:
            os.rename(temporary, target)
            return target
        except OSError:
            if not target.exists():
                raise
    raise OSError(f"No free version number in {root}")


def _describe(function, signature):
    import tensorflow as tf

    outputs = tf.function(function, input_signature=signature).get_concrete_function().structured_outputs
    return {
        "inputs": {spec.name: _describe_tensor(spec.name, spec) for spec in signature},
        "outputs": {key: _describe_tensor(key, value) for key, value in outputs.items()},
    }


def _describe_tensor(name, tensor):
    values = RANGES[name]
    if isinstance(values, dict):
        values = values[tensor.dtype.name]
    return {"dtype": tensor.dtype.name, "shape": tensor.shape.as_list(), "range": values}


def model_card(model, described, class_names=()):
    """Returns what `model.json` says of a model: architecture, arguments, classes, steps, versions, signatures."""
    return {
        "arch": model.architecture,
        "variant": model.variant,
        "image_shape": list(model.image_shape),
        "class_names": list(class_names),
        "hyperparameters": {key: value for key, value in model.get_config().items() if key != "image_shape"},
        "step": model.steps_done,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": installed_versions(),
        "git_commit": git_commit(),
        "signatures": described,
    }


def installed_versions():
    """Returns the versions of Python and of the packages that the result depends on."""
    packages = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy", "pillow")}
    return {"python": platform.python_version(), **packages}


def git_commit():
    """Returns the commit that this code is at, with `-dirty` where files have changed; `None` outside a checkout."""
    here = Path(__file__).parent
    try:
        # The project's own checkout only: an installed copy may lie in somebody else's.
        command = ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(command, capture_output=True, check=True, timeout=10)
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
