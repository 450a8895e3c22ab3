"""`python -m benchmarks.serving`: the built-in server under load, beside a Flask endpoint, in the same run.

Both serve one PNG a request to the same clients, in turns. Every answer of the built-in server is compared with the
image that it drew for the seed alone. In the middle a new version is put beside the old one; at the end SIGTERM comes
while all clients ask.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP_SECONDS = 5
START_SECONDS = 300
TURNS = 3
METHODS = ("predict", "predict_on_batch")  # of a Keras model, in the Flask endpoint
SEEDS = 256
AFTER_SIGTERM_SECONDS = 60
MEGABYTE = 2**20

EPILOG = """examples:
  python -m benchmarks.serving --model saved_models/emoji-faces
  python -m benchmarks.serving --model saved_models/emoji-faces --clients 16 --seconds 15 --out serving.json"""


def build_parser():
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description="Measures the built-in server under load, and a Flask endpoint with the same network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", metavar="DIR", required=True, help="a version, or a model, whose newest is taken")
    parser.add_argument("--clients", metavar="N", type=int, default=64, help="at a time; default 64")
    parser.add_argument("--seconds", metavar="S", type=float, default=60.0, help="of load on the server; default 60")
    parser.add_argument("--out", metavar="FILE", help="for the figures as JSON; default benchmarks/serving.json")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    return parser


def resolve(arguments):
    """Returns `(directory of the version, file for the figures)`.

    Raises:
        ValueError: If an option is wrong.
    """
    from serving.saved_model import locate

    for option, least in (("clients", 1), ("seconds", 6)):
        if not least <= getattr(arguments, option) < float("inf"):
            raise ValueError(f"--{option} must be at least {least}. Received: {getattr(arguments, option)}.")
    export = locate(arguments.model)
    if not export.card.get("arch"):
        raise ValueError(f"--model: there is no model.json at {arguments.model!r} to build the Flask endpoint from.")
    out = Path(arguments.out or Path(__file__).with_suffix(".json"))
    if out.exists() and not arguments.overwrite:
        raise ValueError(f"--out: {str(out)!r} exists. Give --overwrite, or another file.")
    return export.directory, out


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (failed), 2 (wrong option) or 130 (stopped)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        directory, out = resolve(arguments)
    except ValueError as error:
        parser.exit(2, f"benchmarks.serving: {error}\n")
    try:
        figures = asyncio.run(measure(directory, arguments.clients, arguments.seconds))
    except KeyboardInterrupt:
        return 130
    except (OSError, RuntimeError) as error:
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        print(f"benchmarks.serving: {error}", file=sys.stderr)
        return 1
    from training.pictures import save_atomically

    save_atomically(out, lambda file: file.write(json.dumps(figures, indent=2).encode()))
    print(table(figures))
    print(out)
    return 0


async def measure(directory, clients, seconds):
    """Returns the figures of one run.

    Args:
        directory: A version of an exported model.
        clients: Number of clients.
        seconds: Of load on the built-in server.
    """
    from benchmarks.load import Tally, draw_alone, load

    with contextlib.ExitStack() as stack:
        models = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-benchmark-")))
        name = directory.parent.name
        shutil.copytree(directory, models / name / "1")
        command = ["serving.app", "--models", str(models), "--port", "0", "--versions", "1", "--poll", "1"]
        server, url = stack.enter_context(started(*command))
        flask, flask_url = stack.enter_context(started("benchmarks.flask_endpoint", str(directory / "model.json")))
        await ready(f"{url}/readyz", server)
        path = f"/models/{name}/image.png?seed={{seed}}"

        references = await draw_alone(url, path, range(SEEDS))
        await load(url, path, clients, WARM_UP_SECONDS, references)
        for method in METHODS:
            await load(flask_url, f"/{method}.png?seed={{seed}}", 1, WARM_UP_SECONDS)
        memory = Memory(server.pid)
        memory.note("after the warm-up")

        length = seconds / TURNS
        ours, rates = Tally(), []
        theirs = {method: (Tally(), []) for method in METHODS}
        for turn in range(TURNS):
            loading = asyncio.create_task(load(url, path, clients, length, references))
            if turn == TURNS // 2:
                await asyncio.sleep(length / 3)
                memory.note("before the new version")
                rolled = asyncio.create_task(roll(models / name, url, name))
            tally = await loading
            rates.append(tally.in_time / length)
            ours += tally
            memory.note(f"after turn {turn + 1}")
            for method, (total, flask_rates) in theirs.items():
                tally = await load(flask_url, f"/{method}.png?seed={{seed}}", clients, length / 2)
                flask_rates.append(tally.in_time / (length / 2))
                total += tally
        took_over = await rolled

        last = asyncio.create_task(load(url, path, clients, AFTER_SIGTERM_SECONDS, references))
        await asyncio.sleep(2)
        memory.note("at the end")
        server.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        last = await last
        status = await asyncio.to_thread(server.wait, 60)
        ended = time.monotonic() - asked
    return {
        "model": name,
        "clients": clients,
        "seconds": seconds,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "server": described(ours, rates),
        "flask": {method: described(*each) for method, each in theirs.items()},
        "times_flask": {method: sum(rates) / sum(flask_rates) for method, (_, flask_rates) in theirs.items()},
        "new_version_served": took_over,
        "sigterm": {**described(last), "refused": last.refused, "exit_status": status, "seconds": ended},
        "memory_megabytes": memory.noted,
    }


@contextlib.contextmanager
def started(module, *arguments):
    """Starts a server as a process; gives it and its address; ends it."""
    with tempfile.TemporaryFile("w+b") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            first = process.stdout.readline()
            found = re.match(r"http://\S+", first)
            if not found:
                errors.seek(0)
                raise RuntimeError(f"{module} did not start: {errors.read().decode(errors='replace')[-2000:]}")
            yield process, found.group()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()


async def ready(url, process):
    """Waits until an address answers 200.

    Raises:
        RuntimeError: If that takes too long, or the process ends.
    """
    from benchmarks.load import Connection

    end = time.monotonic() + START_SECONDS
    parts = url.rpartition("/")
    while time.monotonic() < end and process.poll() is None:
        connection = Connection(parts[0])
        with contextlib.suppress(OSError, EOFError):
            status, *_ = await connection.get(f"/{parts[2]}")
            if status == 200:
                await connection.close()
                return
        await connection.close()
        await asyncio.sleep(0.2)
    raise RuntimeError(f"The server was not ready after {START_SECONDS} s")


async def roll(root, url, name):
    """Puts a copy of version 1 beside it as version 2; returns whether that took over."""
    from benchmarks.load import Connection

    await asyncio.to_thread(shutil.copytree, root / "1", root / ".writing-2")
    (root / ".writing-2").rename(root / "2")
    connection, served = Connection(url), []
    end = time.monotonic() + START_SECONDS
    while served != [2] and time.monotonic() < end:
        await asyncio.sleep(0.5)
        _, _, body = await connection.get("/models")
        served = next(each["versions"] for each in json.loads(body) if each["name"] == name)
    await connection.close()
    return served == [2]


class Memory:
    """The memory of a process, in megabytes, at some moments."""

    def __init__(self, pid):
        self._pid = pid
        self.noted = {}

    def note(self, moment):
        status = Path(f"/proc/{self._pid}/status").read_text(encoding="ascii")
        self.noted[moment] = round(int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024 / MEGABYTE, 1)


def described(tally, rates=()):
    """Returns a `Tally`, with the images a second of each turn, as JSON."""
    times = sorted(tally.times) or [float("nan")]
    return {
        "per_second": sum(rates) / len(rates) if rates else None,
        "per_second_by_turn": list(rates),
        "answers": {str(status): count for status, count in sorted(tally.answers.items())},
        "dropped": len(tally.dropped),
        "reasons": sorted(set(tally.dropped)),
        "wrong": tally.wrong,
        "different_within_tolerance": tally.different,
        "without_retry_after": tally.without_retry,
        "milliseconds": {f"p{share}": 1000 * times[len(times) * share // 100] for share in (50, 95, 99)},
    }


def table(figures):
    """Returns the figures as a short table."""
    end, memory = figures["sigterm"], figures["memory_megabytes"]
    columns = {"built-in server": figures["server"]} | {
        f"Flask, {name}": each for name, each in figures["flask"].items()
    }
    rows = {
        "": columns,
        "images a second": [f"{each['per_second']:.1f}" for each in columns.values()],
        "by turn": [", ".join(f"{rate:.0f}" for rate in each["per_second_by_turn"]) for each in columns.values()],
        "median, p99 (ms)": ["{p50:.0f}, {p99:.0f}".format(**each["milliseconds"]) for each in columns.values()],
        "answers": [", ".join(f"{n} x {status}" for status, n in each["answers"].items()) for each in columns.values()],
        "dropped": [each["dropped"] for each in columns.values()],
        "wrong images": [figures["server"]["wrong"]] + ["not compared"] * (len(columns) - 1),
        "within 1/255": [figures["server"]["different_within_tolerance"]],
    }
    lines = [f"{name:18}" + "".join(f"{cell!s:24}" for cell in cells).rstrip() for name, cells in rows.items()]
    times = ", ".join(f"{value:.1f} times Flask with {name}" for name, value in figures["times_flask"].items())
    lines += [
        f"{figures['clients']} clients, {figures['seconds']:g} s: {times}",
        f"new version took over: {'yes' if figures['new_version_served'] else 'no'}",
        f"SIGTERM: {sum(end['answers'].values())} answered, {end['dropped']} dropped, exit status {end['exit_status']}",
        "memory (MB): " + ", ".join(f"{value:.0f} {moment}" for moment, value in memory.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
