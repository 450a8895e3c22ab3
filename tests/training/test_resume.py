"""What a stopped run leaves, and that going on from it ends where the uninterrupted run ends, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import zoo
from training import fit
from zoo import checkpoint

REPOSITORY = Path(__file__).parents[2]
STEPS, LONGER = 60, 80
OPTIONS = [
    "--size",
    "16",
    "--set",
    "base_filters=4",
    "--batch-size",
    "4",
    "--log-every",
    "10",
    "--sample-every",
    "1000",
]

# An architecture of a user whose generator's weights or loss can be made to break at a step.
BREAKS = '''
import tensorflow as tf

from zoo.architectures.dcgan import DCGAN
from zoo.registry import register


@register("{name}")
class Breaks(DCGAN):
    """DCGAN whose training goes wrong on purpose."""

    def __init__(self, image_shape, *, base_filters: int = 4, seed: int = 0):
        super().__init__(image_shape, base_filters=base_filters, seed=seed)

    def train_step(self, data):
        logs = super().train_step(data)
        {break_it}
        return logs
'''
NAN_LOSS_AT_3 = 'logs["g_loss"] = tf.where(self.step == 3, float("nan"), logs["g_loss"])'
NAN_WEIGHTS_AT_3 = (
    "weights = self.generator.trainable_variables[0]; "
    'weights.assign(tf.where(self.step == 3, tf.fill(weights.shape, float("nan")), tf.convert_to_tensor(weights)))'
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of decoded images of this module's own, so that the user's is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def words(arch, run_dir, *more, steps=STEPS, jit=False):
    where = ["--run-dir", str(run_dir), "--export-dir", str(Path(run_dir).with_name("exports"))]
    return ["--arch", arch, *OPTIONS, "--steps", str(steps), *where, *([] if jit else ["--no-jit"]), *more]


def fit_here(*arguments):
    """Runs the command line in this process, without the export: that saves the seconds that a new one takes."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "export_model", lambda *_: "not exported")
        try:
            return fit.main(list(arguments))
        finally:
            keras.config.set_dtype_policy("float32")
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def start(arguments):
    """Starts the command line in a process of its own, its output in a file beside the run directory."""
    log = Path(arguments[arguments.index("--run-dir") + 1]).with_suffix(".log")
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "training.fit", *arguments], cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT
        )


def newest_step(run_dir):
    found = checkpoint.paths(Path(run_dir) / "checkpoints")
    return int(found[-1].stem.removeprefix("step_")) if found else 0


def wait_until_step(process, run_dir, step):
    """Returns once a checkpoint of at least `step` lies there; the process must be alive."""
    deadline = time.monotonic() + 300
    while newest_step(run_dir) < step:
        log = Path(run_dir).with_suffix(".log")
        assert process.poll() is None, f"the run ended before step {step}: {log.read_text(errors='replace')[-2000:]}"
        assert time.monotonic() < deadline, f"no checkpoint of step {step} after five minutes"
        time.sleep(0.002)


def stop(process, number):
    process.send_signal(number)
    return process.wait(timeout=120)


def log_text(run_dir):
    return Path(run_dir).with_suffix(".log").read_text(errors="replace")


def assert_same(path, expected_path):
    """Two checkpoints hold the same arrays under the same names, bit for bit."""
    arrays, expected = checkpoint.read(path), checkpoint.read(expected_path)
    assert Path(path).name == Path(expected_path).name
    assert arrays.keys() == expected.keys() and len(arrays) > 40
    different = [
        key
        for key, array in arrays.items()
        if array.dtype != expected[key].dtype or array.tobytes() != expected[key].tobytes()
    ]
    assert not different, f"{len(different)} of {len(arrays)} arrays differ, the first: {different[:3]}"


def assert_same_end(run_dir, reference_dir):
    assert_same(*(checkpoint.paths(Path(each) / "checkpoints")[-1] for each in (run_dir, reference_dir)))


def disk_state(directory):
    """Returns `{path: (mtime, content)}` of every file below a directory."""
    return {
        path.relative_to(directory): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(Path(directory).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory, cache):
    """The run directory of an uninterrupted run of DCGAN to LONGER steps, with the checkpoint of STEPS in it."""
    run_dir = tmp_path_factory.mktemp("dcgan") / "straight"
    assert fit_here(*words("dcgan", run_dir, "--checkpoint-every", str(STEPS), steps=LONGER)) == 0
    assert [path.name for path in checkpoint.paths(run_dir / "checkpoints")] == names_of(STEPS, LONGER)
    return run_dir


@pytest.fixture(scope="module")
def killed(tmp_path_factory, cache):
    """The run directory of a run of DCGAN to STEPS that was killed on the way and started again."""
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    kill_and_resume(run_dir, words("dcgan", run_dir, "--checkpoint-every", "2"))
    return run_dir


def names_of(*steps):
    return [f"step_{step:08d}.npz" for step in steps]


def kill_and_resume(run_dir, arguments, kills=1):
    """Starts a run, kills it with SIGKILL at random moments after its first checkpoint, and lets it end."""
    seed = random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    print(f"random moments drawn from seed {seed}")  # pytest shows it if the test fails
    span = STEPS // (2 * kills)
    for kill in range(kills):
        process = start(arguments)
        wait_until_step(process, run_dir, kill * span + draw.randrange(2, span, 2))
        time.sleep(draw.uniform(0, 0.05))  # anywhere within a step, or within the writing of a checkpoint
        assert stop(process, signal.SIGKILL) == -signal.SIGKILL
        assert 0 < newest_step(run_dir) < STEPS, "the kill came after the end: the test shows nothing"
    process = start(arguments)
    assert process.wait(timeout=300) == 0, log_text(run_dir)[-2000:]
    assert log_text(run_dir).count("going on from step") == kills


def test_dcgan_killed_with_kill_9_ends_where_the_uninterrupted_run_ends(killed, straight):
    assert_same(*(run_dir / "checkpoints" / names_of(STEPS)[0] for run_dir in (killed, straight)))
    assert not list((killed / "checkpoints").glob(".*")), "a half-written checkpoint was left behind"
    assert (killed.parent / "exports" / "dcgan-emoji-16" / "1" / "saved_model.pb").is_file()


def test_sngan_in_bfloat16_killed_terminated_and_interrupted_ends_where_the_uninterrupted_run_ends(tmp_path, capsys):
    bfloat16 = ["--precision", "mixed_bfloat16", "--augment", "color,translation"]
    straight, run_dir = tmp_path / "straight", tmp_path / "run"
    assert fit_here(*words("sngan", straight, "--checkpoint-every", "1000", *bfloat16)) == 0
    arguments = words("sngan", run_dir, "--checkpoint-every", "2", *bfloat16)

    process = start(arguments)
    wait_until_step(process, run_dir, 6)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    after_kill = newest_step(run_dir)

    process = start(arguments)
    wait_until_step(process, run_dir, after_kill + 6)
    assert stop(process, signal.SIGTERM) == 143, log_text(run_dir)[-2000:]
    after_term = newest_step(run_dir)
    assert f"Stopped and saved at step {after_term}" in log_text(run_dir)
    assert "Traceback" not in log_text(run_dir)
    assert after_kill < after_term < STEPS
    assert not (tmp_path / "exports").exists(), "a stopped run exported"

    capsys.readouterr()
    assert interrupted_at(run_dir, after_term + 6, lambda: fit_here(*arguments)) == 130
    after_interrupt = newest_step(run_dir)
    assert after_term < after_interrupt < STEPS
    assert f"Stopped and saved at step {after_interrupt}" in capsys.readouterr().out

    assert fit_here(*arguments) == 0
    assert_same_end(run_dir, straight)


def interrupted_at(run_dir, step, run):
    """Returns what `run()` returns when Ctrl-C comes once a checkpoint of at least `step` lies there."""

    def interrupt():
        while newest_step(run_dir) < step:
            if done.wait(0.002):
                return
        os.kill(os.getpid(), signal.SIGINT)

    done = threading.Event()
    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        return run()
    finally:
        done.set()
        watcher.join()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("arch", ["dcgan", "sngan"])
def test_a_run_with_xla_killed_with_kill_9_ends_where_the_uninterrupted_run_ends(tmp_path, arch, precision):
    straight, run_dir = tmp_path / "straight", tmp_path / "run"
    process = start(words(arch, straight, "--checkpoint-every", "60", "--precision", precision, jit=True))
    assert process.wait(timeout=600) == 0, log_text(straight)[-2000:]
    arguments = words(arch, run_dir, "--checkpoint-every", "2", "--precision", precision, jit=True)
    kill_and_resume(run_dir, arguments, kills=2)
    assert_same_end(run_dir, straight)


def test_the_names_in_a_checkpoint_do_not_depend_on_what_else_the_process_has_built(tmp_path, killed):
    # Keras numbers the names of layers over a process, and a notebook may have made models before.
    for _ in range(2):
        model = zoo.create("dcgan", (16, 16, 3), base_filters=4)
        model.compile(jit_compile=False)
    written_here = checkpoint.read(checkpoint.save(model, tmp_path))
    assert sorted(written_here) == sorted(checkpoint.read(checkpoint.paths(killed / "checkpoints")[-1]))
    assert any("momentum" in key for key in written_here)


def test_a_truncated_newest_checkpoint_gives_way_to_the_one_before_and_the_run_ends_the_same(
    tmp_path, straight, capsys
):
    run_dir = tmp_path / "run"
    shutil.copytree(straight, run_dir)
    last = checkpoint.paths(run_dir / "checkpoints")[-1]
    with open(last, "r+b") as file:
        file.truncate(last.stat().st_size * 2 // 3)
    with pytest.warns(UserWarning, match=f"{last.name} cannot be read.*Falling back"):
        assert fit_here(*words("dcgan", run_dir, "--checkpoint-every", str(STEPS), steps=LONGER)) == 0
    assert f"going on from step {STEPS}" in capsys.readouterr().out
    assert_same_end(run_dir, straight)


def test_a_checkpoint_with_one_bit_changed_is_noticed(tmp_path, straight):
    path = shutil.copy(checkpoint.paths(straight / "checkpoints")[-1], tmp_path)
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 3] ^= 1
    Path(path).write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        checkpoint.read(path)


def test_where_no_checkpoint_can_be_read_the_run_fails_and_starts_nothing_anew(tmp_path, straight, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(straight, run_dir)
    for path in checkpoint.paths(run_dir / "checkpoints"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="Falling back"):
        assert fit_here(*words("dcgan", run_dir, "--checkpoint-every", "60")) == 1
    message = capsys.readouterr().err
    assert "None of the 2 checkpoints" in message and str(run_dir) in message
    assert [path.stat().st_size for path in checkpoint.paths(run_dir / "checkpoints")] == [0, 0]


def test_another_configuration_on_the_same_run_directory_fails_shows_the_difference_and_changes_nothing(
    straight, capsys
):
    before = disk_state(straight.parent)
    other = words("dcgan", straight, "--set", "base_filters=8", "--set", "g_learning_rate=0.001", "--seed", "7")
    assert fit_here(*other) == 1
    message = capsys.readouterr().err
    assert str(straight) in message
    for line in ("hyperparameters.base_filters: 4 there, 8 now", "recipe.g_learning_rate: 0.0002 there, 0.001 now",
                 "seed: 0 there, 7 now"):  # fmt: skip
        assert line in message
    assert "batch_size" not in message, "the difference names what is equal"
    assert "--run-dir" in message
    assert disk_state(straight.parent) == before


def test_other_images_under_the_same_path_are_another_configuration(tmp_path, capsys):
    from PIL import Image

    images, generator = tmp_path / "images", np.random.default_rng(0)
    images.mkdir()

    def add(name):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(images / name)

    for name in "abc":
        add(f"{name}.png")
    arguments = words("dcgan", tmp_path / "run", "--data", str(images), "--checkpoint-every", "2", steps=2)
    assert fit_here(*arguments) == 0
    add("d.png")
    capsys.readouterr()
    assert fit_here(*arguments) == 1
    assert "data_fingerprint" in capsys.readouterr().err


def test_more_steps_and_options_that_change_no_number_go_on_with_a_run(tmp_path, killed, straight, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(killed, run_dir)
    others = ["--checkpoint-every", "1000", "--log-every", "5", "--workers", "1", "--name", "renamed"]
    assert fit_here(*words("dcgan", run_dir, *others, steps=LONGER)) == 0
    assert f"going on from step {STEPS}" in capsys.readouterr().out
    assert_same_end(run_dir, straight)
    assert json.loads((run_dir / "config.json").read_text())["steps"] == LONGER
    steps = [int(line.split(",")[0]) for line in (run_dir / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [*range(10, STEPS + 1, 10), *range(STEPS + 5, LONGER + 1, 5)], "a row is missing or there twice"


def test_more_steps_with_a_linear_decay_are_another_configuration(tmp_path, capsys):
    # The decay ends at the last step: the steps so far would have had other learning rates.
    linear = ["--set", "learning_rate_decay=linear", "--checkpoint-every", "2"]
    run_dir = tmp_path / "run"
    assert fit_here(*words("dcgan", run_dir, *linear, steps=2)) == 0
    assert fit_here(*words("dcgan", run_dir, *linear, steps=4)) == 1
    assert "steps: 2 there, 4 now" in capsys.readouterr().err
    assert newest_step(run_dir) == 2


def user_architecture(tmp_path, name, break_it):
    path = tmp_path / f"{name}.py"
    path.write_text(BREAKS.format(name=name, break_it=break_it))
    return f"{path}:Breaks"


def assert_stopped_as_not_finite(message, run_dir, step):
    assert f"at step {step}" in message
    for loss in ("d_loss = ", "g_loss = "):
        assert loss in message
    assert "nan" in message
    assert str(run_dir / "checkpoints" / f"step_{step - 1:08d}.npz") in message
    assert "What to try" in message and "g_learning_rate" in message
    assert newest_step(run_dir) == step - 1


def test_a_loss_that_is_nan_stops_the_run_names_every_loss_and_overwrites_nothing(tmp_path, capsys):
    arch, run_dir = user_architecture(tmp_path, "nan_loss", NAN_LOSS_AT_3), tmp_path / "run"
    arguments = ["--arch", arch, "--size", "16", "--batch-size", "4", "--steps", "6", "--no-jit", "--checkpoint-every", "1",
                 "--sample-every", "1", "--log-every", "1", "--run-dir", str(run_dir)]  # fmt: skip
    arguments += ["--export-dir", str(tmp_path / "exports")]
    assert fit_here(*arguments) == 1
    assert_stopped_as_not_finite(capsys.readouterr().err, run_dir, step=3)
    rows = (run_dir / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "2"]
    assert sorted(path.name for path in (run_dir / "samples").glob("step_*")) == [
        f"step_{step:08d}.png" for step in range(3)
    ]
    assert not (tmp_path / "exports").exists()
    before = disk_state(run_dir / "checkpoints")
    assert fit_here(*arguments) == 1, "the same command again finds the same end"
    assert disk_state(run_dir / "checkpoints") == before


def test_a_nan_in_the_weights_behind_finite_losses_is_not_saved_over_a_good_checkpoint(tmp_path, capsys):
    arch, run_dir = user_architecture(tmp_path, "nan_weights", NAN_WEIGHTS_AT_3), tmp_path / "run"
    arguments = ["--arch", arch, "--size", "16", "--batch-size", "4", "--steps", "6", "--no-jit", "--checkpoint-every", "1",
                 "--run-dir", str(run_dir), "--export-dir", str(tmp_path / "exports")]  # fmt: skip
    assert fit_here(*arguments) == 1
    assert newest_step(run_dir) == 2
    for path in checkpoint.paths(run_dir / "checkpoints"):
        assert all(np.isfinite(array).all() for array in checkpoint.read(path).values()), path
    message = capsys.readouterr().err
    assert "not finite after step 3" in message and names_of(2)[0] in message and "What to try" in message
    assert not (tmp_path / "exports").exists()


def test_a_learning_rate_without_measure_ends_in_the_message_of_a_loss_that_is_not_finite(tmp_path, capsys):
    run_dir = tmp_path / "run"
    arguments = words("dcgan", run_dir, "--set", "g_learning_rate=1e30", "--set", "d_learning_rate=1e30", steps=10)
    assert fit_here(*arguments, "--checkpoint-every", "100") == 1
    message = capsys.readouterr().err
    assert "is not finite at step" in message and "none yet" in message and "What to try" in message
    assert newest_step(run_dir) == 0


@pytest.mark.slow
def test_an_interrupt_before_the_first_step_exits_130_without_a_traceback(tmp_path):
    run_dir = tmp_path / "run"
    process = start(words("dcgan", run_dir))
    deadline = time.monotonic() + 120
    while "run directory" not in log_text(run_dir) and time.monotonic() < deadline:
        time.sleep(0.01)  # TensorFlow is being imported, or the model made
    assert stop(process, signal.SIGINT) == 130
    assert "Traceback" not in log_text(run_dir)
