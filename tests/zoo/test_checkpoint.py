"""Checkpoints: atomic, verified, whole or not at all, and nothing in them is executed."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import io
import json
import pickle
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo import checkpoint

ARGUMENTS = {"base_filters": 4, "latent_dim": 4}


def model_of(initial_weights=0, channels=3, **changes):
    keras.utils.set_random_seed(initial_weights)
    model = zoo.create("dcgan", (8, 8, channels), **(ARGUMENTS | changes))
    model.compile(jit_compile=False)
    return model


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def other():
    return model_of(initial_weights=1)


def values(model):
    holders = [model, *model.optimizers_by_name.values()]
    return [np.array(keras.ops.convert_to_numpy(variable)) for holder in holders for variable in holder.variables]


def same(first, second):
    return len(first) == len(second) and all(
        one.tobytes() == two.tobytes() for one, two in zip(first, second, strict=True)
    )


def save_at(model, step, directory):
    """A checkpoint that tells its step by a weight as well."""
    model.step.assign(step)
    bias = model.generator.to_image.bias
    bias.assign(tf.fill(bias.shape, float(step)))
    return checkpoint.save(model, directory)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_checkpoint_brings_everything_back(model, other, tmp_path):
    for variable in (*model.d_optimizer.variables, *model.g_optimizer.variables):
        variable.assign(tf.ones_like(variable))
    path = save_at(model, 7, tmp_path)
    assert path.name == "step_00000007.npz"
    assert not same(values(model), values(other))
    checkpoint.load(other, path)
    assert same(values(model), values(other)) and int(other.step) == 7


def test_the_networks_alone_leave_the_optimizers_where_they_were(model, tmp_path):
    for variable in model.g_optimizer.variables:
        variable.assign(tf.ones_like(variable))
    path = save_at(model, 7, tmp_path)
    fresh = model_of(initial_weights=2)
    before = [np.array(keras.ops.convert_to_numpy(variable)) for variable in fresh.g_optimizer.variables]
    checkpoint.load(fresh, path, networks_only=True)
    assert same(before, [np.array(keras.ops.convert_to_numpy(variable)) for variable in fresh.g_optimizer.variables])
    assert same(values(fresh)[: len(fresh.variables)], values(model)[: len(model.variables)])
    uncompiled = zoo.create("dcgan", (8, 8, 3), **ARGUMENTS)
    checkpoint.load(uncompiled, path, networks_only=True)
    assert uncompiled.sample(2).tobytes() == model.sample(2).tobytes()


def test_the_last_two_are_kept(model, tmp_path):
    for step in (1, 2, 10, 9):
        save_at(model, step, tmp_path)
    assert names(tmp_path) == ["step_00000009.npz", "step_00000010.npz"]
    assert [path.name for path in checkpoint.paths(tmp_path)] == names(tmp_path)


def test_other_files_are_neither_read_nor_removed(model, tmp_path):
    for name in ("step_1.npz", "notes.txt", "step_00000099.npz.bak", "backup_step_00000050.npz"):
        (tmp_path / name).write_text("mine")
    for step in (1, 2, 3):
        save_at(model, step, tmp_path)
    assert len(names(tmp_path)) == 6
    assert checkpoint.restore_newest(model, tmp_path).name == "step_00000003.npz"


def test_what_a_killed_run_left_half_written_is_ignored_and_cleared(model, tmp_path):
    (tmp_path / ".step_00000005.npz.123.tmp").write_bytes(b"half")
    assert checkpoint.paths(tmp_path) == []
    save_at(model, 6, tmp_path)
    assert names(tmp_path) == ["step_00000006.npz"]


@pytest.mark.parametrize("moment", ["savez", "fsync", "replace"])
def test_a_failure_while_writing_leaves_the_older_checkpoints_whole(model, tmp_path, monkeypatch, moment):
    save_at(model, 1, tmp_path)
    whole = (save_at(model, 2, tmp_path)).read_bytes()

    def fail(*arguments, **keywords):
        if moment == "savez":
            arguments[0].write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr({"savez": np, "fsync": os, "replace": os}[moment], moment, fail)
    with pytest.raises(OSError, match="no space"):
        save_at(model, 3, tmp_path)
    monkeypatch.undo()
    assert names(tmp_path) == ["step_00000001.npz", "step_00000002.npz"]
    assert (tmp_path / "step_00000002.npz").read_bytes() == whole


def test_an_existing_checkpoint_is_replaced_in_one_move(model, tmp_path, monkeypatch):
    path = save_at(model, 1, tmp_path)
    moves = []
    replace = os.replace

    def record(source, target):
        checkpoint.read(source)  # whole before it gets its name
        moves.append((source.parent, target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    save_at(model, 1, tmp_path)
    assert moves == [(tmp_path, path)], "the temporary file must lie in the same directory"


DAMAGE = {
    "empty": lambda data: b"",
    "text": lambda data: b"this is no checkpoint\n" * 20,
    "half": lambda data: data[: len(data) // 2],
    "a byte short": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "the middle zeroed": lambda data: data[: len(data) // 3] + bytes(len(data) // 3) + data[2 * (len(data) // 3) :],
    "a bit flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 16]) + data[len(data) // 2 + 1 :]
    ),
    "an array in place of an archive": lambda data: npy(np.ones(3)),
    "a pickle": lambda data: pickle.dumps([1, 2]),
    "an encrypted archive": lambda data: data.replace(
        b"PK\x01\x02" + data[data.index(b"PK\x01\x02") + 4 :][:4] + b"\0",
        b"PK\x01\x02" + data[data.index(b"PK\x01\x02") + 4 :][:4] + b"\1",
    ),
    "another dtype in a header": lambda data: data.replace(b"'<f4'", b"'<f2'"),
}


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_newest_falls_back_to_the_one_before_with_a_warning(model, other, tmp_path, damage):
    save_at(model, 1, tmp_path)
    expected = values(model)
    newest = save_at(model, 2, tmp_path)
    whole = newest.read_bytes()
    newest.write_bytes(DAMAGE[damage](whole))
    assert newest.read_bytes() != whole
    with pytest.raises(checkpoint.CheckpointError, match="step_00000002.npz cannot be read"):
        checkpoint.read(newest)
    with pytest.warns(UserWarning, match="step_00000002.npz cannot be read.*Falling back") as warnings:
        assert checkpoint.restore_newest(other, tmp_path).name == "step_00000001.npz"
    assert len(warnings) == 1
    assert same(values(other), expected)
    assert len(names(tmp_path)) == 2, "a damaged file is evidence: it is not removed"


def test_all_damaged_is_an_error_that_leaves_the_model_as_it_was(model, other, tmp_path):
    for step in (1, 2):
        path = save_at(model, step, tmp_path)
        path.write_bytes(path.read_bytes()[:-100])
    before = values(other)
    with pytest.warns(UserWarning), pytest.raises(checkpoint.CheckpointError, match="None of the 2 checkpoints"):
        checkpoint.restore_newest(other, tmp_path)
    assert same(values(other), before)


def test_no_single_flipped_bit_alters_what_is_read(tmp_path):
    arrays = {
        "step": np.int64(3),
        "network/0000/kernel": np.arange(6, dtype=np.float32),
        "network/0001/bias": np.ones(2, np.float32),
    }
    path = tmp_path / "step_00000001.npz"
    np.savez(path, **arrays)
    data = path.read_bytes()
    noticed = 0
    for bit in range(0, 8 * len(data), 7):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = checkpoint.read(path)
        except checkpoint.CheckpointError:
            noticed += 1
            continue
        # Dates and the like may change; a key may be lost, which `load` notices; a value never.
        for key in found.keys() & arrays.keys():
            assert found[key].dtype == arrays[key].dtype and np.array_equal(found[key], arrays[key]), (bit, key)
    assert noticed > 300


def test_a_pickle_in_a_checkpoint_is_refused_and_not_run(other, tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    directory = tmp_path / "checkpoints"
    directory.mkdir()
    path = directory / "step_00000001.npz"
    key = next(iter(checkpoint.variables(other)))
    np.savez(path, **{key: np.array([Malicious()], dtype=object)})
    with np.load(path, allow_pickle=True) as armed:  # it would have worked
        armed[key]
    (tmp_path / "owned").rmdir()
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        checkpoint.read(path)
    with pytest.warns(UserWarning), pytest.raises(checkpoint.CheckpointError):
        checkpoint.restore_newest(other, directory)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.read(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "changes",
    [{"base_filters": 8}, {"latent_dim": 5}, {"channels": 1}],
    ids=["wider", "other latents", "other channels"],
)
def test_another_configuration_is_an_error_and_leaves_the_model_untouched(model, tmp_path, changes):
    path = save_at(model, 3, tmp_path)
    different = model_of(**changes)
    before = values(different)
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        checkpoint.load(different, path)
    assert same(values(different), before)


def test_another_architecture_or_optimizer_is_an_error_and_leaves_the_model_untouched(model, tmp_path):
    path = save_at(model, 3, tmp_path)
    sngan = zoo.create("sngan", (16, 16, 3), **ARGUMENTS)
    sngan.compile(jit_compile=False)
    sgd = zoo.create("dcgan", (8, 8, 3), **ARGUMENTS)
    sgd.compile(keras.optimizers.RMSprop(), keras.optimizers.RMSprop(), jit_compile=False)
    for different in (sngan, sgd):
        before = values(different)
        with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
            checkpoint.load(different, path)
        assert same(values(different), before)


def test_an_array_that_cannot_be_assigned_leaves_the_model_untouched(model, other, tmp_path):
    path = save_at(model, 3, tmp_path)
    arrays = checkpoint.read(path)
    last = list(arrays)[-1]
    arrays[last] = np.full(arrays[last].shape, "text")
    np.savez(path, **arrays)
    before = values(other)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.load(other, path)
    assert same(values(other), before)


def test_no_checkpoint_is_no_error(other, tmp_path):
    assert checkpoint.restore_newest(other, tmp_path) is None
    assert checkpoint.restore_newest(other, tmp_path / "missing") is None
    assert checkpoint.paths(tmp_path / "missing") == []


def test_a_checkpoint_is_an_ordinary_archive_of_arrays(model, tmp_path):
    path = save_at(model, 3, tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert all(name.endswith(".npy") for name in archive.namelist())
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays.files) == set(checkpoint.variables(model))


# zoo.load(run_dir)


def run_directory(tmp_path, model, **changes):
    config = {"arch": "dcgan", "image_shape": [8, 8, 3], "hyperparameters": ARGUMENTS, "steps": 100}
    (tmp_path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    save_at(model, 5, tmp_path / "checkpoints")
    return tmp_path


def test_a_run_is_loaded_with_its_averaged_weights(model, tmp_path):
    for variable in model.ema_generator.variables:
        variable.assign(variable + 0.01)
    loaded = zoo.load(run_directory(tmp_path, model))
    assert type(loaded) is type(model) and int(loaded.step) == 5
    assert loaded.sample(3, seed=2).tobytes() == model.sample(3, seed=2).tobytes()
    assert zoo.load(str(tmp_path)).sample(1).tobytes() == model.sample(1).tobytes()


def test_a_run_that_cannot_be_loaded_says_why(model, tmp_path):
    with pytest.raises(ValueError, match="holds no run: it has no config.json"):
        zoo.load(tmp_path)
    with pytest.raises(ValueError, match="holds no run"):
        zoo.load(tmp_path / "missing")
    for text in (
        "{",
        "[]",
        "null",
        json.dumps({"arch": "dcgan"}),
        json.dumps({"arch": "dcgan", "image_shape": 3, "hyperparameters": {}}),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json.* cannot be read"):
            zoo.load(tmp_path)
    run_directory(tmp_path, model, arch="dcgna")
    with pytest.raises(ValueError, match="Did you mean 'dcgan'"):
        zoo.load(tmp_path)
    run_directory(tmp_path, model)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no checkpoint yet"):
        zoo.load(tmp_path)
