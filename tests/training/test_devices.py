"""Several replicas against one: in processes of their own, over loopback, and on two virtual devices of one process."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from training import devices

ROOT = Path(__file__).parents[2]
SECONDS = 1500  # that processes may take on a busy machine
TINY = {
    "dcgan": {"base_filters": 4},
    "sngan": {"base_filters": 4, "discriminator_steps": 2},
    "fastgan": {"base_filters": 2, "reconstruction": "multiscale_l1"},
}
SGD = 0.01
CASES = {name: {"arch": name, "hyperparameters": each, "learning_rate": SGD} for name, each in TINY.items()}
CASES |= {
    f"{name}-bfloat16": {"arch": name, "hyperparameters": each, "precision": "mixed_bfloat16"}
    for name, each in TINY.items()
}
CASES["dcgan-local"] = CASES["dcgan"] | {"sync_batch_norm": False, "learning_rate": None}
# What a user trains on one device: batch norm by its fused kernels, which round otherwise than the synchronized one.
ONE_DEVICE = {"dcgan-fused": CASES["dcgan"] | {"sync_batch_norm": False}}
CASES["ae"] = {"arch": "ae", "hyperparameters": {"base_filters": 2, "latent_dim": 4}, "learning_rate": SGD}


def clusters(count):
    """Returns the TF_CONFIG of each of `count` workers on free ports of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    tasks = ({"type": "worker", "index": index} for index in range(count))
    return [json.dumps({"cluster": {"worker": workers}, "task": task}) for task in tasks]


def start(command, log, **environment):
    kept = {key: value for key, value in os.environ.items() if key not in ("TF_CONFIG",)}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=log.parent,
            env=kept | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def finish(processes):
    """Waits for processes; returns their exit statuses."""
    try:
        return [process.wait(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()


def train_all(folder, job, cases, processes, virtual_devices=1):
    """Trains the cases in processes of these environments; `folder / job` then holds what came of it."""
    (folder / job).mkdir()
    (folder / f"{job}.json").write_text(json.dumps({name: (CASES | ONE_DEVICE)[name] for name in cases}))
    worker = ROOT / "tests/training/replica_worker.py"
    started = [
        start(
            [worker, folder / f"{job}.json", folder / job, virtual_devices],
            folder / job / f"log.{index}",
            **environment,
        )
        for index, environment in enumerate(processes)
    ]
    statuses = finish(started)
    logs = "\n".join((folder / job / f"log.{index}").read_text()[-3000:] for index in range(len(started)))
    assert statuses == [0] * len(started), logs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder with what one process, two workers, and two virtual devices made of the same cases."""
    folder = tmp_path_factory.mktemp("replicas")
    train_all(folder, "one", [*CASES, *ONE_DEVICE], [{}])
    train_all(folder, "two", CASES, [{"TF_CONFIG": config} for config in clusters(2)])
    train_all(folder, "mirrored", ["dcgan", "dcgan-local"], [{}], virtual_devices=2)
    return folder


@pytest.fixture(scope="module")
def mirrored(trained):
    """The same folder, with more of what two virtual devices make."""
    train_all(trained, "mirrored_more", ["sngan", "fastgan", "ae"], [{}], virtual_devices=2)
    return trained


def arrays(folder, name, worker=0):
    with np.load(folder / f"{name}.{worker}.npz") as file:
        return dict(file)


def losses(folder, name):
    return json.loads((folder / f"{name}.0.json").read_text())


def weights(state, group):
    """Returns the variables of the networks, without the average and optimizers."""
    kept = ("generator", "discriminator", "encoder", "decoder")
    return {key: each for key, each in state.items() if key.split("/")[0] == group and key.split("/")[1] in kept}


def is_trained(key):
    return key.split("/")[-1] not in ("moving_mean", "moving_variance", "u", "v")


@pytest.mark.parametrize("name", CASES)
def test_two_workers_end_with_the_same_bits(trained, name):
    first, second = (arrays(trained / "two", name, worker) for worker in (0, 1))
    assert first.keys() == second.keys() and len(first) > 20
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)
    moved = [key for key in weights(first, "last") if (first[key] != first[key.replace("last", "before", 1)]).any()]
    assert len(moved) > 5


@pytest.mark.parametrize("name", ["dcgan", "sngan", "fastgan", "ae"])
def test_two_workers_compute_what_one_device_does(trained, name):
    check_equal_to_one(trained, "two", name)


def test_two_virtual_devices_compute_what_one_does(trained):
    check_equal_to_one(trained, "mirrored", "dcgan")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sngan", "fastgan", "ae"])
def test_two_virtual_devices_compute_what_one_does_of_the_others(mirrored, name):
    check_equal_to_one(mirrored, "mirrored_more", name)


def test_two_workers_take_the_first_step_that_one_device_takes_with_its_fused_batch_norm(trained):
    check_first_step(arrays(trained / "one", "dcgan-fused"), arrays(trained / "two", "dcgan"))


def check_equal_to_one(folder, job, name):
    one, several = arrays(folder / "one", name), arrays(folder / job, name)
    check_first_step(one, several)
    for key, value in weights(one, "last").items():
        np.testing.assert_allclose(several[key], value, rtol=1e-5, atol=1e-5, err_msg=key)


def check_first_step(one, several):
    steps = {}
    for key, value in weights(one, "first").items():
        before = one[key.replace("first", "before", 1)]
        np.testing.assert_array_equal(before, several[key.replace("first", "before", 1)], err_msg=key)
        if is_trained(key):
            steps.setdefault(key.split("/")[1], []).append((value - before, several[key] - before))
    for network, pairs in steps.items():  # SGD: the first step is the gradient, times the learning rate
        expected, found = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
        assert np.linalg.norm(expected) > 0
        distance = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert distance < 1e-4, f"gradients of the {network}: {distance}"


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("bfloat16")])
def test_losses_in_bfloat16_are_those_of_one_device(trained, name):
    for one, two in zip(losses(trained / "one", name), losses(trained / "two", name), strict=True):
        for key in one:
            if key.endswith("loss"):
                assert two[key] == pytest.approx(one[key], rel=0.02), key


def test_local_batch_norm_differs_and_its_statistics_are_averaged(trained):
    local, synchronized = arrays(trained / "two", "dcgan-local"), arrays(trained / "two", "dcgan")
    key = next(key for key in local if key.startswith("last/generator/") and "moving_variance" in key)
    assert not np.array_equal(local[key], synchronized[key])
    mirrored = arrays(trained / "mirrored", "dcgan-local")
    for key, value in weights(local, "first").items():
        if "moving" in key:
            np.testing.assert_allclose(mirrored[key], value, rtol=1e-4, atol=1e-6, err_msg=key)


def fit(folder, *options):
    return [
        "-m", "training.fit", "--arch", "dcgan", "--size", 32, "--set", "base_filters=4", "--batch-size", 8, "--no-jit",
        "--data", folder / "images", "--run-dir", folder / "run", "--export-dir", folder / "saved_models", "--name", "tiny",
        "--log-every", 1, "--sample-every", 1000, *options,
    ]  # fmt: skip


def logged_steps(log):
    return [int(step) for step in re.findall(r"^step (\d+)/", log.read_text(), re.MULTILINE)]


def wait_for(condition, processes, log):
    end = time.monotonic() + SECONDS
    while not condition():
        assert all(process.poll() is None for process in processes), log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    draw = np.random.default_rng(0)
    for number in range(12):
        pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def test_a_job_that_lost_a_worker_says_so_and_goes_on_when_it_is_started_again(folder):
    log = folder / "log.0"

    def job(*options):
        return [
            start(fit(folder, "--strategy", "multiworker", *options), folder / f"log.{index}",
                  TF_CONFIG=config, ZOO_CACHE=str(folder / f"cache{index}"))
            for index, config in enumerate(clusters(2))
        ]  # fmt: skip

    processes = job("--steps", 100_000, "--checkpoint-every", 5)
    try:
        wait_for(lambda: log.exists() and logged_steps(log)[-1:] > [7], processes, log)
        processes[1].kill()
        killed = time.monotonic()
        assert processes[0].wait(timeout=SECONDS) != 0
        assert time.monotonic() - killed < 60 or os.getloadavg()[0] > os.cpu_count()
    finally:
        finish(processes)
    text = log.read_text()
    assert "does not answer any more" in text and "goes on from the last checkpoint" in text, text[-3000:]
    assert "Traceback" not in text
    left = max(path.name for path in (folder / "run/checkpoints").glob("step_*.npz"))
    last = int(left[5:13]) + 4
    assert finish(job("--steps", last)) == [0, 0], log.read_text()[-3000:]
    assert f"going on from step {last - 4}" in log.read_text()
    assert logged_steps(log) == list(range(last - 3, last + 1))
    assert [path.name for path in (folder / "saved_models/tiny").iterdir()] == ["1"]


def test_every_worker_stops_and_the_chief_saves_when_one_is_asked_to_end(folder):
    processes = [
        start(fit(folder, "--steps", 100_000), folder / f"log.{index}", TF_CONFIG=config)
        for index, config in enumerate(clusters(2))
    ]
    log = folder / "log.0"
    try:
        wait_for(lambda: log.exists() and logged_steps(log), processes, log)
        processes[1].send_signal(signal.SIGTERM)
        assert finish(processes) == [143, 143], log.read_text()[-3000:]
    finally:
        finish(processes)
    saved = [path.name for path in (folder / "run/checkpoints").iterdir()]
    assert saved == [f"step_{logged_steps(log)[-1]:08d}.npz"]


def test_workers_with_other_options_are_refused(folder):
    processes = [
        start(fit(folder, "--steps", 5, "--seed", index), folder / f"log.{index}", TF_CONFIG=config)
        for index, config in enumerate(clusters(2))
    ]
    assert finish(processes) == [1, 1]
    for index in range(2):
        assert "The workers differ in the configuration" in (folder / f"log.{index}").read_text()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "TF_CONFIG must be like"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}', "must name a task of type worker"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "from 0 to 0"),
    ],
)
def test_a_wrong_tf_config_is_named(monkeypatch, config, said):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=said):
        devices.check("auto")


def slurm(worker, nodes="localhost", tasks_per_node="2", num_tasks=2):
    """The variables that `srun` gives to a task."""
    return {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": nodes, "SLURM_STEP_TASKS_PER_NODE": tasks_per_node,
            "SLURM_STEP_NUM_TASKS": str(num_tasks), "SLURM_PROCID": str(worker)}  # fmt: skip


def test_a_job_of_slurm_trains_and_says_that_xla_cannot_compile_synchronized_batch_norm(folder):
    command = fit(folder, "--steps", 2, "--sync-batch-norm", "--jit")
    processes = [
        start(command, folder / f"log.{worker}", ZOO_CACHE=str(folder / f"cache{worker}"), **slurm(worker))
        for worker in range(2)
    ]
    assert finish(processes) == [0, 0], (folder / "log.0").read_text()[-3000:]
    for worker in range(2):
        log = (folder / f"log.{worker}").read_text()
        assert f"2 workers of 1 device, this is worker {worker}" in log
        assert log.count("without XLA") == 1
    assert [path.name for path in (folder / "saved_models/tiny").iterdir()] == ["1"]


def test_the_tasks_of_slurm_have_the_addresses_of_their_own_machines(monkeypatch):
    for name, value in slurm(2, "n[9-11]", "2,1(x2)", 4).items():
        monkeypatch.setenv(name, value)
    resolver = devices._slurm_resolver()
    hosts, ports = zip(*(address.split(":") for address in resolver.cluster_spec().job_tasks("worker")), strict=True)
    assert hosts == ("n9", "n9", "n10", "n11")  # block by block, as Slurm hands out its tasks
    assert int(ports[1]) == int(ports[0]) + 1 and ports[0] == ports[2] == ports[3]
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)
    assert resolver.num_accelerators() == {"GPU": 0}


def test_multiworker_without_addresses_is_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    with pytest.raises(ValueError, match="Neither is set"):
        devices.check("multiworker")


def test_a_batch_that_cannot_be_shared_out_is_refused():
    where = devices.Devices(None)
    where.check_batch_size(6, 3)
    where.num_replicas = 4
    with pytest.raises(ValueError, match="4 replicas times --accumulate 3. Received: 30; try 24"):
        where.check_batch_size(30, 3)
