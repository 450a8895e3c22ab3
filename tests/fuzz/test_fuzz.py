"""No file of somebody else's, however damaged or hostile, does more to a reader than be refused.

Random inputs come from hypothesis, a few seconds a reader; what was built by hand to do harm is in `CASES`, and what longer
runs of `run_atheris.py` kept, the smallest file for each outcome and message, in `corpus/`.
"""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from training import foreign_weights
from zoo.perceptual import weights

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = {"images": 300, "zips": 60, "checkpoints": 300, "weights": 400, "cards": 300, "settings": 300}
MOST_MB = 300  # several times the 64 MB that a reader may always give, and less than what any of the cases asks for


def mutated(seeds):
    """Contents with bytes changed, cut out, doubled and spliced."""

    def change(content, edits):
        content = bytearray(content)
        for kind, place, other, patch in edits:
            place, other = (int(share * len(content)) for share in (place, other))
            start, stop = sorted((place, other))
            if kind == "write":
                content[place : place + len(patch)] = patch
            elif kind == "insert":
                content[place:place] = patch
            elif kind == "cut":
                del content[start:stop]
            elif kind == "end":
                del content[place:]
            else:
                content[place:place] = content[start:stop]
        return bytes(content)

    shares = st.floats(0, 1)
    patches = st.one_of(
        st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, bytes(8), b"\xff\xff\xff\x7f"])
    )
    edit = st.tuples(st.sampled_from(["write", "insert", "cut", "end", "double"]), shares, shares, patches)
    return st.builds(change, st.sampled_from(seeds), st.lists(edit, max_size=4))


def pickled():
    """Programs of instructions that picklers write, in any order."""
    words = [getattr(pickle, name) for name in (
        "MARK", "STOP", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS",
        "APPEND", "APPENDS", "REDUCE", "BUILD", "BINPERSID", "MEMOIZE", "POP", "NEWOBJ", "EMPTY_SET", "FROZENSET", "NONE",
    )]  # fmt: skip
    texts = [b"storage", b"<f4", b"0", b"cpu", b"latin1", b"f4", b"little_endian"]
    words += [pickle.SHORT_BINUNICODE + bytes([len(text)]) + text for text in texts]
    words += [pickle.BININT1 + bytes([number]) for number in (0, 1, 3)] + [pickle.BINGET + bytes([n]) for n in range(4)]
    words += [pickle.BININT + struct.pack("<i", number) for number in (-1, 2**31 - 1)]
    words += [pickle.GLOBAL + name + b"\n" for name in (
        b"collections\nOrderedDict", b"numpy\ndtype", b"numpy\nndarray", b"numpy._core.numeric\n_frombuffer", b"os\nsystem",
        b"numpy._core.multiarray\n_reconstruct", b"torch._utils\n_rebuild_tensor_v2", b"_codecs\nencode", b"builtins\neval",
    )]  # fmt: skip
    body = st.lists(st.sampled_from(words), max_size=30).map(b"".join)
    return st.one_of(body, body.map(lambda content: content + b".")).map(lambda content: b"\x80\x04" + content)


def arrays():
    """`.npy` files whose header says anything."""

    def write(dtype, shape, order, data):
        header = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode("latin1", "replace")
        return targets.NUMPY + b"\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + data

    dtypes = st.sampled_from(
        ["<f4", "<i8", "|u1", "|O", "<U9", "|V0", "|S0", "<f16", "<M8[s]", "f4,i8", "", "<c8", "|b1"]
    )
    sides = st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**31, 2**40, 2**62, 2**63, 2**80]))
    return st.builds(write, dtypes, st.lists(sides, max_size=4).map(tuple), st.booleans(), st.binary(max_size=64))


def cards():
    """JSON objects with the names that the readers look for, and any values."""
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["/a/b", "~"])
    )
    names = st.one_of(st.sampled_from(["sample", "inputs", "label", "seed", "shape", "data"]), st.text(max_size=3))
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
        max_leaves=12,
    )
    keys = st.sampled_from(
        ["image_shape", "class_names", "signatures", "training", "step", "arch", "variant", "created"]
    )
    objects = st.dictionaries(keys, values, max_size=8)
    return st.one_of(objects, values).map(lambda value: json.dumps(value).encode())


def words():
    """Words of `--set`: names that exist or nearly, and values of every kind."""
    names = st.one_of(
        st.sampled_from(["base_filters", "loss", "latent_dim", "variant", "augment", "seed", "beta_1", "g_learning_rate", "ema_decay",
                         "discriminator_steps", "label_noise", "num_classes", "learning_rate_decay", "reconstruction"]),
        st.text(max_size=4),
    )  # fmt: skip
    values = st.one_of(
        st.sampled_from(["", "none", "True", "hinge", "-1", "0", "1e400", "nan", "-inf", "9" * 5000, "1_0", "١", "0x10", "a=b", "\0"]),
        st.integers().map(str), st.floats().map(str), st.text(max_size=6),
    )  # fmt: skip
    word = st.one_of(st.builds("{}={}".format, names, values), st.text(max_size=5))
    return st.builds(
        lambda arch, found: bytes([arch]) + "\n".join(found).encode("utf-8", "surrogatepass"),
        st.integers(0, 5), st.lists(word, min_size=1, max_size=4),
    )  # fmt: skip


STRUCTURED = {
    "weights": st.one_of(pickled(), pickled().map(lambda content: targets.STATE + content), arrays()),
    "checkpoints": arrays(),
    "cards": cards(),
    "settings": words(),
}


@pytest.fixture(scope="module", autouse=True)
def first_use(tmp_path_factory):
    """Has everything imported that is imported on first use: that runs code, which the targets tell of."""
    folder = tmp_path_factory.mktemp("first")
    for target in targets.TARGETS:
        for content in targets.seeds(target):
            targets.TARGETS[target](content, folder)
            targets.empty(folder)


@pytest.mark.parametrize("target", targets.TARGETS)
def test_what_is_whole_is_read(target, tmp_path):
    assert [targets.run(target, content, tmp_path) for content in targets.seeds(target)] == [targets.READ] * len(
        targets.seeds(target)
    )


@pytest.mark.parametrize("target", targets.TARGETS)
def test_random_files_are_read_or_refused(target, tmp_path):
    contents = mutated(targets.seeds(target))
    if target in STRUCTURED:
        contents = st.one_of(contents, STRUCTURED[target])

    @settings(max_examples=EXAMPLES[target], deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(contents)
    def check(content):
        targets.run(target, content, tmp_path)

    check()


# Built by hand to do harm. What the readers once did with them is in docs/reliability.md.


def laughs(start, end, levels=60):
    """A pickle of a value that holds the one before twice, `levels` times over: a kilobyte that unfolds without end."""
    return b"\x80\x02" + start + b"q\x00" + (b"h\x00h\x00\x86q\x00") * levels + end


def nested_dictionaries(levels=40):
    body = b"}q\x00U\x01aK\x01s"
    for _ in range(levels):
        body += b"}q\x01U\x01ah\x00sU\x01bh\x00sh\x010q\x00"
    return b"\x80\x02" + body + b"."


def zip_bomb(name, head, megabytes=500):
    """Half a megabyte that unpacks to a thousand times as much."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as entry:
        entry.write(head)
        for _ in range(megabytes):
            entry.write(bytes(2**20))
    return stream.getvalue()


def npy_header(shape, dtype="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def shared_storage(times=4000):
    """A state dict of a small storage, and many tensors that are all of it."""
    tensor = pickle.dumps(np.zeros(2**17, np.float64), 2)[2:-1]
    return b"\x80\x02}q\xff" + b"U\x01x" + tensor + b"r\xff\xff\x00\x00s" + b"".join(
        b"J" + struct.pack("<i", index) + b"j\xff\xff\x00\x00s" for index in range(times)
    ) + b"."  # fmt: skip


HUGE = 2**28
CASES = {
    "weights": {
        "a place in the memo far beyond the others": lambda: b"\x80\x02}r" + struct.pack("<I", HUGE) + b".",
        "bytes of a number": lambda: b"\x80\x02}U\x01acnumpy._core.numeric\n_frombuffer\n(J" + struct.pack("<i", HUGE * 4)
        + b"cnumpy\ndtype\nU\x02u1\x85RJ" + struct.pack("<i", HUGE * 4) + b"\x85U\x01CtRs.",
        "a bytearray of more than the file": lambda: b"\x80\x05}\x8c\x01a\x96" + struct.pack("<Q", HUGE * 4) + b"s.",
        "a name that unfolds": lambda: laughs(b"}(U\x01f", b"K\x01u."),
        "a storage that unfolds": lambda: laughs(b"(U\x07storage", b"tQ."),
        "a type that unfolds": lambda: laughs(b"U\x01f", b"0cnumpy\ndtype\nh\x00\x85R."),
        "a machine that unfolds": lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + laughs(b"U\x01f", b".") * 2,
        "dictionaries in dictionaries twice": nested_dictionaries,
        "one array many times": shared_storage,
        "a dictionary in itself": lambda: b"\x80\x02}q\x00U\x01ah\x00s.",
        "a pickle that unpacks a thousandfold": lambda: zip_bomb("archive/data.pkl", b"\x80\x02"),
        "an array that unpacks a thousandfold": lambda: zip_bomb("a.npy", npy_header((2**27,))),
        "texts in place of numbers": lambda: targets.npz({"a": np.array(["text"])}),
    },
    "checkpoints": {
        "an array that unpacks a thousandfold": lambda: zip_bomb("a.npy", npy_header((2**27,))),
        "terabytes in a header": lambda: npy_header((2**40, 3)),
        "a size that overflows": lambda: npy_header((2**32, 2**32)),
        "as many nothings as there can be": lambda: npy_header((2**62,), "|V0"),
    },
    "cards": {
        "brackets without end": lambda: b"[" * 200_000,
        "no object": lambda: b"[1]",
        "signatures in a list": lambda: b'{"signatures": [1]}',
        "inputs in a list": lambda: b'{"signatures": {"sample": {"inputs": [1]}}}',
        "a signature that is a number": lambda: b'{"signatures": {"sample": 3}}',
        "a shape that is a number": lambda: b'{"image_shape": 32}',
        "a shape of texts": lambda: b'{"image_shape": ["32", "32", "3"]}',
        "classes that are a number": lambda: b'{"class_names": 3}',
        "a training that is a list": lambda: b'{"training": [], "step": "many"}',
        "half a surrogate": lambda: b'{"class_names": ["\\ud800"], "arch": "\\udfff"}',
        "no UTF-8": lambda: b'{"arch": "\xff"}',
    },
    "settings": {
        "a number of 5,000 digits": lambda: b"\1base_filters=" + b"9" * 5000,
        "no number": lambda: b"\1g_learning_rate=nan",
        "other digits": lambda: "\1base_filters=١٢".encode(),
        "a zero byte": lambda: b"\1loss=\0",
        "half a surrogate": lambda: b"\1\xff=\xff",
    },
}  # fmt: skip


@pytest.mark.parametrize("target", CASES)
def test_files_built_to_do_harm_are_refused_in_little_memory_and_time(target, tmp_path):
    for name, make in CASES[target].items():
        (tmp_path / f"{name}.bin").write_bytes(make())
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, target, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout)
    assert measured.keys() == set(CASES[target])
    assert {name: mb for name, (_, mb) in measured.items() if mb > MOST_MB} == {}
    read = {name for name, (outcome, _) in measured.items() if outcome == targets.READ}
    assert read <= {"half a surrogate", "as many nothings as there can be", "other digits"}


MEASURED = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, "tests/fuzz")
import targets
target, folder = sys.argv[1], Path(sys.argv[2])
for content in targets.seeds(target):
    targets.TARGETS[target](content, folder / "empty")
    targets.empty(folder / "empty")
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))  # so that a failure takes the test, and not the machine
measured = {}
for path in sorted(folder.glob("*.bin")):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = targets.run(target, path.read_bytes(), folder / "empty")
    measured[path.stem] = outcome, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(json.dumps(measured))
"""


def test_a_pickle_cannot_change_the_functions_that_it_may_call(tmp_path):
    (tmp_path / "weights").write_bytes(b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__U\x01xU\x06latin1\x86s\x86b.")
    with pytest.raises(weights.WeightsError, match="changes a function"):
        weights.read_weights(tmp_path / "weights")
    assert weights._encode.__defaults__ is None


def test_an_hdf5_file_that_unpacks_a_thousandfold_is_refused(tmp_path):
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        group = file.create_group("dense")
        group.create_dataset("kernel:0", (2**20, 64), np.float32, compression="gzip", fillvalue=0)[:100] = 1
        group.attrs["weight_names"] = ["kernel:0"]
        file.attrs["layer_names"] = ["dense"]
    with pytest.raises(weights.WeightsError, match="not an array of floats stored in the file"):
        foreign_weights.read(tmp_path / "bomb.h5")


CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").glob("*/*"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_long_runs_kept_is_read_or_refused_as_before(path, tmp_path):
    assert targets.run(path.parent.name, path.read_bytes(), tmp_path) == path.name.partition("_")[0]
