"""Faults, brought about for real: what the user sees, and that nothing which was finished before is lost.

Kills, truncated checkpoints and SIGTERM are in `test_resume.py` as well, caches in `test_data.py`, random kills in
`test_kills.py`; `docs/reliability.md` lists them all.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from evaluation.subject import ExportedModel
from serving.saved_model import Generator, locate
from tests.disk import largest_file
from tests.training.test_resume import assert_same, disk_state
from training import data, fit, image_cache, run_lock
from training.export import versions
from zoo import checkpoint

REPOSITORY = Path(__file__).parents[2]
STEPS, LONGER = 4, 6
OPTIONS = ["--size", "16", "--batch-size", "4", "--no-jit", "--checkpoint-every", "2", "--log-every", "1",
           "--sample-every", "1000", "--name", "tiny"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of decoded images of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def write_images(folder, count=12):
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images")


def words(images, place, *more, steps=STEPS, arch=("dcgan", "--set", "base_filters=4")):
    where = ["--run-dir", str(place / "run"), "--export-dir", str(place / "exports")]
    return ["--arch", *arch, "--data", str(images), *OPTIONS, *where, "--steps", str(steps), *more]


def run_here(*arguments, export=True):
    """Runs the command line in this process; without the export, which takes seconds, where it is not what is looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if not export:
            patch.setattr(fit, "export_model", lambda *_: "not exported")
        try:
            return fit.main(list(arguments))
        finally:
            keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images):
    """A place with a run of STEPS steps, exported."""
    place = tmp_path_factory.mktemp("finished")
    assert run_here(*words(images, place)) == 0
    return place


@pytest.fixture(scope="module")
def longer(tmp_path_factory, finished, images):
    """A place with the same run of LONGER steps, which nothing disturbed."""
    place = tmp_path_factory.mktemp("longer")
    shutil.copytree(finished / "run", place / "run")
    assert run_here(*words(images, place, steps=LONGER), export=False) == 0
    return place


@pytest.fixture
def place(tmp_path, finished):
    """A copy of the finished run and its export, to be harmed."""
    shutil.copytree(finished, tmp_path / "place")
    return tmp_path / "place"


def newest(place):
    return checkpoint.paths(place / "run" / "checkpoints")[-1]


def kept(place):
    """Returns what must not change: every checkpoint and every export."""
    return {
        where: {path: content for path, (_, content) in disk_state(place / where).items()}
        for where in ("run/checkpoints", "exports")
    }


@pytest.fixture
def mount():
    """Returns a function that mounts a small file system at a directory."""
    mounted = []

    def mount(directory, options):
        directory.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no right to mount a small file system here ({done.stderr.strip()})")
        mounted.append(directory)
        return directory

    yield mount
    for directory in mounted:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


# Two runs in one directory


HOLD = """
import sys, time
from training import run_lock
try:
    with run_lock.held(sys.argv[1]):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except run_lock.RunInUse:
    print("in use", flush=True)
"""


def hold(directory, seconds):
    """Starts a process that holds the lock of a run directory."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), str(seconds)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )


def test_a_second_run_on_a_directory_is_told_who_has_it_and_changes_nothing(place, images, capsys):
    holder = hold(place / "run", 300)
    try:
        assert holder.stdout.readline() == "held\n"
        before = disk_state(place)
        assert run_here(*words(images, place, steps=LONGER)) == 1
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith(f"training.fit: {place / 'run'} is in use by another run: process {holder.pid} on "
                                  f"{socket.gethostname()}, started {time.strftime('%Y-')}")  # fmt: skip
        assert f"kill {holder.pid}" in message and "--run-dir" in message
        assert disk_state(place) == before
    finally:
        holder.kill()
        holder.communicate()
    # It was killed, and left its file: that is no obstacle.
    assert (place / "run" / run_lock.NAME).exists()
    assert run_here(*words(images, place)) == 0
    assert not (place / "run" / run_lock.NAME).exists()


def test_of_several_runs_that_start_at_once_one_goes_on(tmp_path):
    holders = [hold(tmp_path, 3) for _ in range(4)]
    assert sorted(holder.communicate(timeout=60)[0] for holder in holders) == ["held\n"] + ["in use\n"] * 3
    with run_lock.held(tmp_path):
        assert os.listdir(tmp_path) == [run_lock.NAME]
    assert os.listdir(tmp_path) == []


def test_where_the_file_system_has_no_locks_the_file_tells_the_living_from_the_dead(tmp_path, monkeypatch):
    def no_locks(file):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(run_lock, "try_lock", no_locks)
    holder = subprocess.Popen(["sleep", "300"])
    claim = {"pid": holder.pid, "host": socket.gethostname(), "started": "then"}
    (tmp_path / run_lock.NAME).write_text(json.dumps(claim))
    with pytest.raises(run_lock.RunInUse, match=f"process {holder.pid} on"), run_lock.held(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with run_lock.held(tmp_path):  # of a process that is dead
        assert json.loads((tmp_path / run_lock.NAME).read_text())["pid"] == os.getpid()
    (tmp_path / run_lock.NAME).write_text(json.dumps(claim | {"host": "elsewhere"}))
    with pytest.raises(run_lock.RunInUse, match=r"on elsewhere.*remove .*\.lock"), run_lock.held(tmp_path):
        pass


def test_what_a_killed_run_left_half_written_is_cleared_and_nothing_else(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in (
        ".metrics.csv.12.tmp",
        "samples/.step_00000002.png.12.tmp",
        "metrics.csv",
        "samples/mine.tmp",
        ".hidden",
    ):
        (tmp_path / name).write_bytes(b"half")
    with run_lock.held(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".hidden", run_lock.NAME, "metrics.csv", "samples"]
        assert os.listdir(tmp_path / "samples") == ["mine.tmp"]


# Kills at the moments that matter most


KILLED = """
import os, signal, sys

def hook(event, arguments):
    if event == "os.rename" and os.fspath(arguments[1]).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
from training import fit
sys.exit(fit.main(sys.argv[2:]))
"""


def killed_before_renaming(name, arguments):
    """Runs the command line in a process that kills itself when all is written but the name; returns its output."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, name, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    return done.stdout


def test_kills_while_a_checkpoint_and_an_export_are_written_cost_no_more_than_these(tmp_path, images, finished, capsys):
    killed_before_renaming("step_00000004.npz", words(images, tmp_path))
    assert [path.name for path in checkpoint.paths(tmp_path / "run" / "checkpoints")] == ["step_00000002.npz"]
    assert len(list((tmp_path / "run" / "checkpoints").glob(".step_00000004.npz.*.tmp"))) == 1
    checkpoint.read(newest(tmp_path))

    output = killed_before_renaming("/tiny/1", words(images, tmp_path))
    assert "going on from step 2" in output
    assert_same(newest(tmp_path), newest(finished))
    assert versions(tmp_path / "exports" / "tiny") == []
    assert not list((tmp_path / "run").rglob(".*.tmp"))

    assert run_here(*words(images, tmp_path)) == 0
    assert "going on from step 4" in capsys.readouterr().out
    assert versions(tmp_path / "exports" / "tiny") == [1]
    first, second = (Generator(locate(each / "exports" / "tiny")) for each in (tmp_path, finished))
    assert first.sample([1, 2]).tobytes() == second.sample([1, 2]).tobytes()


# No space left


def assert_told_of_space(capsys):
    message = capsys.readouterr().err.strip()
    assert "Traceback" not in message
    assert re.search(r"training\.fit: .*for want of space.*the same command again", message.splitlines()[-1]), message


def test_a_checkpoint_that_finds_no_space_is_told_and_the_same_command_goes_on_later(place, images, longer, capsys):
    before, size = kept(place), newest(place).stat().st_size
    with largest_file(size - 1000):
        assert run_here(*words(images, place, steps=LONGER)) == 1
    assert_told_of_space(capsys)
    assert kept(place) == before, "a half-written checkpoint stayed, or a whole one went"
    assert run_here(*words(images, place, steps=LONGER), export=False) == 0
    assert_same(newest(place), newest(longer))
    steps = [line.split(",")[0] for line in (place / "run" / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", *map(str, range(1, LONGER + 1))]


def test_metrics_that_find_no_space_are_told_and_the_same_command_goes_on_later(place, images, mount, capsys):
    before = kept(place)
    full = mount(place / "full", "size=4k")
    with contextlib.suppress(OSError):
        (full / "ballast").write_bytes(bytes(8192))
    (place / "run" / "metrics.csv").unlink()
    (place / "run" / "metrics.csv").symlink_to(full / "metrics.csv")
    assert run_here(*words(images, place, steps=LONGER)) == 1
    assert_told_of_space(capsys)
    assert kept(place) == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    (full / "ballast").unlink()
    assert run_here(*words(images, place)) == 0


def test_samples_that_find_no_space_are_told(place, images, mount, capsys):
    before = kept(place)
    shutil.rmtree(place / "run" / "samples")
    mount(place / "run" / "samples", "size=4k")
    assert run_here(*words(images, place)) == 1
    assert_told_of_space(capsys)
    assert kept(place) == before
    assert list((place / "run" / "samples").iterdir()) == []


def test_an_export_that_finds_no_space_is_told_leaves_nothing_and_is_made_later(place, images, mount, capsys):
    before = kept(place)["run/checkpoints"]
    shutil.rmtree(place / "exports")
    exports = mount(place / "exports", "size=200k")
    assert run_here(*words(images, place)) == 1
    assert_told_of_space(capsys)
    assert list(exports.iterdir()) == []
    assert kept(place)["run/checkpoints"] == before
    subprocess.run(["mount", "-o", "remount,size=20m", str(exports)], check=True)
    assert run_here(*words(images, place)) == 0
    assert versions(exports / "tiny") == [1]


def test_a_cache_that_finds_no_space_is_told_and_leaves_nothing(tmp_path, images, mount):
    with largest_file(2000), pytest.raises(data.DataError, match=r"Writing failed \(File too large\).*ZOO_CACHE"):
        data.load(images, size=16, cache_dir=tmp_path / "cache", progress=False)
    assert os.listdir(tmp_path / "cache") == [".lock"]
    small = mount(tmp_path / "small", "size=1m")
    with pytest.raises(data.DataError, match=r"need 16\.\d MB in .*small, and 1\.0 MB are free.*ZOO_CACHE"):
        data.load(images, size=16, cache_dir=small, progress=False)
    assert os.listdir(small) == []


# Directories that cannot be written to


@pytest.fixture
def read_only(tmp_path, mount):
    """A directory that nobody, not even root, can write to."""
    if os.geteuid() == 0:
        yield mount(tmp_path / "read_only", "ro")
    else:
        (tmp_path / "read_only").mkdir(mode=0o555)
        yield tmp_path / "read_only"


def test_read_only_directories_are_told_before_anything_is_trained(tmp_path, read_only, images, capsys):
    arguments = words(images, tmp_path)

    def with_option(option, value):
        assert run_here(*arguments, option, str(value)) == 1
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("training.fit: ") and str(value) in message, message
        return message

    assert "Read-only" in with_option("--run-dir", read_only) or os.geteuid()
    with_option("--run-dir", read_only / "run")
    assert "give another one" in with_option("--export-dir", read_only / "exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(read_only / "cache"))
        assert run_here(*arguments) == 1
        assert "ZOO_CACHE=DIR" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.npz")) and os.listdir(read_only) == []


# Damaged exports


def flip(path, position=0.5):
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 4
    path.write_bytes(content)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    "name, damage",
    [
        ("saved_model.pb", cut),
        ("saved_model.pb", lambda path: path.write_bytes(b"")),
        ("variables/variables.index", cut),
        ("variables/variables.index", flip),
        ("variables/variables.data-00000-of-00001", cut),
        ("variables/variables.data-00000-of-00001", flip),
        ("variables/variables.data-00000-of-00001", Path.unlink),
        ("model.json", cut),
    ],
    ids="graph-cut graph-empty index-cut index-flipped weights-cut weights-flipped weights-gone card-cut".split(),
)
def test_a_damaged_export_is_refused_by_name(place, name, damage):
    version = place / "exports" / "tiny" / "1"
    damage(version / name)
    with pytest.raises(ValueError, match=rf"{re.escape(str(version))}.*cannot be (loaded|read)"):
        Generator(locate(place / "exports" / "tiny"))
    with pytest.raises(ValueError, match=rf"{re.escape(str(version))}.*cannot be (loaded|read)"):
        ExportedModel(version)


def test_an_export_whose_card_is_damaged_is_made_again_as_the_next_version(place, images):
    cut(place / "exports" / "tiny" / "1" / "model.json")
    assert run_here(*words(images, place)) == 0
    assert versions(place / "exports" / "tiny") == [1, 2]


@pytest.mark.parametrize("content", ["[]", "null", "[" * 100_000, '{"recipe": 1', "\0"])
def test_a_damaged_configuration_is_told_and_kept(place, images, content, capsys):
    (place / "run" / "config.json").write_text(content)
    before = disk_state(place)
    assert run_here(*words(images, place)) == 1
    assert "config.json cannot be read" in capsys.readouterr().err
    assert disk_state(place) == before


# Damaged caches


def test_of_a_large_cache_every_so_many_images_are_checked(tmp_path, images, monkeypatch):
    cache_dir = tmp_path / "cache"
    first = data.load(images, size=16, cache_dir=cache_dir, progress=False)
    (file,) = cache_dir.glob("*/images.bin")
    monkeypatch.setattr(image_cache, "CHECKED_IMAGES", 4)
    for index, is_checked in ((3, True), (4, False)):
        flip(file, (index + 0.5) / len(first))
        assert (image_cache.read(file.parent) is None) == is_checked
        flip(file, (index + 0.5) / len(first))
    assert image_cache.read(file.parent) is not None


# The clock


def test_clocks_that_jump_change_no_number(place, images, longer, monkeypatch):
    future = time.time() + 80 * 365 * 86_400
    left = place / "exports" / "tiny" / ".writing-1-1"
    left.mkdir()
    for path in place.rglob("*"):
        os.utime(path, (future, future))
    clock = iter(np.arange(2e9, 0, -86_400.0))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(clock))  # a day back at every look
        assert run_here(*words(images, place, steps=LONGER)) == 0
    assert_same(newest(place), newest(longer))
    lines = (place / "run" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("images_per_second")
    assert [line.split(",")[0] for line in lines[1:]] == [str(step) for step in range(1, LONGER + 1)]
    assert all(float(line.split(",")[column]) >= 0 for line in lines[1:])
    assert versions(place / "exports" / "tiny") == [1, 2]
    assert left.exists(), "younger than a day, as far as anybody can tell"


# Other images than at the start


def test_a_file_deleted_or_changed_between_two_starts_is_noticed_and_put_back_it_goes_on(tmp_path, finished, capsys):
    images = write_images(tmp_path / "images")
    shutil.copytree(finished / "run", tmp_path / "run")
    shutil.copytree(finished / "exports", tmp_path / "exports")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"data": str(images)}))
    before = kept(tmp_path)
    content = (images / "03.png").read_bytes()

    def refused():
        assert run_here(*words(images, tmp_path, steps=LONGER)) == 1
        message = capsys.readouterr().err
        assert "data_fingerprint" in message and "other images" in message and "Traceback" not in message
        assert kept(tmp_path) == before

    (images / "03.png").unlink()
    refused()
    Image.new("RGB", (20, 20)).save(images / "03.png")
    refused()
    (images / "03.png").write_bytes(content)
    assert run_here(*words(images, tmp_path), export=False) == 0
    assert "going on from step 4" in capsys.readouterr().out
    shutil.rmtree(images)
    with pytest.raises(SystemExit) as stopped:
        run_here(*words(images, tmp_path))
    assert stopped.value.code == 2 and "does not exist" in capsys.readouterr().err
    assert kept(tmp_path) == before


# Numbers that are none


NAN_GRADIENT_AT_3 = '''
import tensorflow as tf

from zoo.architectures.dcgan import DCGAN
from zoo.registry import register


@register("nan_gradient")
class NanGradient(DCGAN):
    """DCGAN whose generator gets a gradient that is no number at one step."""

    def __init__(self, image_shape, *, base_filters: int = 4, seed: int = 0):
        super().__init__(image_shape, base_filters=base_filters, seed=seed)

    def generate_in_training(self, z, labels=None):
        @tf.custom_gradient
        def poisoned(images):
            return images, lambda gradient: gradient * tf.where(self.step == 2, float("nan"), 1.0)

        return poisoned(super().generate_in_training(z, labels))
'''


def test_a_gradient_that_is_nan_stops_the_run_before_its_weights_are_saved(tmp_path, images, capsys):
    (tmp_path / "arch.py").write_text(NAN_GRADIENT_AT_3)
    arguments = words(images, tmp_path, arch=(f"{tmp_path / 'arch.py'}:NanGradient",), steps=LONGER)
    assert run_here(*arguments) == 1
    message = capsys.readouterr().err
    assert "is not finite at step 3" in message and "g_gradient_norm = nan" in message
    assert "step_00000002.npz" in message and "What to try" in message
    assert newest(tmp_path).name == "step_00000002.npz"
    assert all(np.isfinite(array).all() for array in checkpoint.read(newest(tmp_path)).values())
