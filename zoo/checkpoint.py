"""One file holds all that a training run needs to go on: written atomically, the last two kept, verified on reading.

The format is NumPy's `.npz`, uncompressed: an array a variable, each with the CRC-32 of the zip container, so that a
truncated or altered file is noticed. Keys are `network/index/variable name`. Reading one executes nothing.
"""

import io
import json
import os
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np

KEPT = 2
_PATTERN = re.compile(r"step_(\d{8})\.npz")
_NUMBER = re.compile(r"_\d+(?=_|$)")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit the model."""


def variables(model, networks_only=False):
    """Returns `{key: variable}` of all that a checkpoint of `model` holds, without the optimizers if `networks_only`."""
    groups = {"model": model.own_variables}
    groups |= {name: network.variables for name, network in model.networks.items()}
    if not networks_only:
        groups |= {name: optimizer.variables for name, optimizer in model.optimizers_by_name.items()}
    # Without the numbers that Keras counts up over a process (`conv2d_7`): the next process may count from elsewhere.
    return {
        f"{group}/{index:04d}/{_NUMBER.sub('', variable.name)}": variable
        for group, members in groups.items()
        for index, variable in enumerate(members)
    }


def save(model, directory):
    """Writes `directory/step_NNNNNNNN.npz` atomically and removes all but the last two.

    Args:
        model: A compiled `GenerativeModel`.
        directory: Where checkpoints lie; created if missing.

    Returns:
        The path written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step_{model.steps_done:08d}.npz"
    temporary = directory / f".{path.name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **{key: np.asarray(variable) for key, variable in variables(model).items()})
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for old in paths(directory)[:-KEPT]:
        old.unlink()
    for stale in directory.glob(".step_*.tmp"):  # left by a killed run
        stale.unlink(missing_ok=True)
    return path


def paths(directory):
    """Returns the checkpoints of a directory, oldest first."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _PATTERN.fullmatch(path.name))


def read(path):
    """Returns the arrays of a checkpoint by key.

    Raises:
        CheckpointError: If the file is truncated, altered or no checkpoint.
    """
    try:
        # Not `np.load`: it stops reading where an array's header says so, and a CRC is only checked at the end.
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(
                entry.file_size for entry in entries
            ) > os.path.getsize(path):  # a few bytes could be unpacked into more than there is memory
                raise ValueError("its arrays are larger than the file, or compressed, which `save` never writes")
            members = {entry.filename.removesuffix(".npy"): file.read(entry) for entry in entries}
        return {key: np.lib.format.read_array(io.BytesIO(data), allow_pickle=False) for key, data in members.items()}
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for a damaged file
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def load(model, path, networks_only=False):
    """Puts a checkpoint's state into a model, all of it or nothing.

    Args:
        model: A model of the same configuration; compiled, unless `networks_only`.
        path: A checkpoint.
        networks_only: Whether to leave the optimizers out.

    Raises:
        CheckpointError: If the file is damaged or belongs to another configuration.
    """
    arrays = read(path)
    wanted = variables(model, networks_only)
    for key, variable in wanted.items():
        if key not in arrays:
            raise CheckpointError(f"{path} has no {key!r}: it was written for another configuration")
        found, needed = (arrays[key].dtype.name, arrays[key].shape), (variable.dtype, tuple(variable.shape))
        if found != needed:
            raise CheckpointError(
                f"{path} holds {key!r} as {found}, the model needs {needed}: it was written for another configuration"
            )
    for key, variable in wanted.items():
        variable.assign(arrays[key])


def restore_newest(model, directory, networks_only=False):
    """Loads the newest checkpoint that can be read, warning of each that cannot.

    Returns:
        The path loaded, or `None` where there is no checkpoint.

    Raises:
        CheckpointError: If there are checkpoints and none can be read.
    """
    found = paths(directory)
    for path in reversed(found):
        try:
            load(model, path, networks_only)
            return path
        except CheckpointError as error:
            warnings.warn(f"{error}. Falling back to the checkpoint before it.", stacklevel=2)
            last_error = error
    if found:
        raise CheckpointError(
            f"None of the {len(found)} checkpoints in {directory} can be read ({last_error}). Restore one from a "
            f"backup, or start again in another run directory."
        )
    return None


def load_run(run_dir):
    """Returns the model of a run directory with its newest weights (see `zoo.load`)."""
    from zoo.registry import get_class

    run_dir = Path(run_dir)
    try:
        config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        arch, image_shape, arguments = config["arch"], tuple(config["image_shape"]), dict(config["hyperparameters"])
    except FileNotFoundError:
        raise ValueError(f"{run_dir} holds no run: it has no config.json") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{run_dir / 'config.json'} cannot be read: {type(error).__name__}: {error}") from None
    model = get_class(arch)(image_shape, **arguments)
    if restore_newest(model, run_dir / "checkpoints", networks_only=True) is None:
        raise ValueError(f"{run_dir} has no checkpoint yet: the run has not reached its first one")
    return model
