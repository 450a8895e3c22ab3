"""Sides of a comparison, each in a process of its own, that run some steps in turn: A B A B."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OPTIONAL_SECONDS = 600  # that an optional side may take for an answer: torch.compile of a large network takes longer
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


@dataclass(frozen=True)
class Side:
    """What one process measures.

    Args:
        name: In the figures.
        case: `module:function` for `benchmarks.worker`.
        arguments: Of the function, as JSON has them.
        python: Interpreter; this one if None.
        steps: Steps a turn, if not those of the others.
        optional: Whether the others are measured all the same where this one cannot run, or takes too long.
    """

    name: str
    case: str
    arguments: dict[str, Any] = field(default_factory=dict)
    python: str | None = None
    steps: int | None = None
    optional: bool = False


class Worker:
    """The process of a `Side`; it may use the processors that this process may use."""

    def __init__(self, side, threads):
        self.side = side
        self._errors = tempfile.TemporaryFile("w+b")
        self._process = subprocess.Popen(
            [side.python or sys.executable, "-m", "benchmarks.worker", side.case, json.dumps(side.arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=ROOT,
            env=environment(threads),
        )  # fmt: skip
        self.started = None

    def wait_until_built(self):
        """Returns what the process says once its case is built.

        Raises:
            RuntimeError: If the process fails.
        """
        self.started = self._answer()
        return self.started

    def run(self, steps):
        """Has the process run some steps; returns its answer. Raises as `wait_until_built`."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        patience = OPTIONAL_SECONDS if self.side.optional else None
        if not select.select([self._process.stdout], [], [], patience)[0]:
            self._process.kill()
            raise RuntimeError(
                f"{self.side.name} was given up after {OPTIONAL_SECONDS // 60} minutes without an answer"
            )
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(
                f"{self.side.name} failed (exit status {status}): {lines[-1] if lines else 'no message'}"
            )
        return json.loads(line)

    def close(self):
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def environment(threads):
    """Returns the environment of a process that is to compute with so many threads."""
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), "TF_CPP_MIN_LOG_LEVEL": "3"}


def interleaved(sides, *, turns, steps, threads, warm_up=True, report=print):
    """Builds every side and takes one step to warm up, then lets them run `steps` steps each, in turn, `turns` times.

    Args:
        sides: `Side`s.
        turns: Turns of each.
        steps: Steps a turn.
        threads: Threads of each process.
        warm_up: False where a step is so long that its first time is no other.
        report: Called with a line on each side as it is ready, and on each turn.

    Returns:
        `{name: {"turns": seconds by turn, "cpu_turns", "build_seconds", "first_step_seconds", "facts", "value": what
        the last step returned, "peak_bytes", "resident_bytes": before the first step}}`; of an optional side that
        failed `{"failed": message}`.

    Raises:
        RuntimeError: If a side that is not optional fails.
    """
    results = {}
    with contextlib.ExitStack() as stack:
        workers = []

        def attempt(worker, action):
            try:
                return action()
            except RuntimeError as error:
                if not worker.side.optional:
                    raise
                results[worker.side.name] = {"failed": str(error)}
                report(str(error))
                return None

        for side in sides:
            worker = Worker(side, threads)
            stack.callback(worker.close)
            first = attempt(
                worker, lambda worker=worker: (worker.wait_until_built(), worker.run(1) if warm_up else None)
            )
            if first is not None:
                workers.append(worker)
                seconds = first[1]["seconds"][0] if warm_up else None
                results[side.name] = {**first[0], "first_step_seconds": seconds, "turns": [], "cpu_turns": []}
                step = f", first step {seconds:.2f} s" if warm_up else ""
                report(f"  {side.name}: built in {first[0]['build_seconds']:.1f} s{step}")
        for turn in range(turns):
            for worker in list(workers):
                answer = attempt(worker, lambda worker=worker: worker.run(worker.side.steps or steps))
                if answer is None:
                    workers.remove(worker)
                    continue
                result = results[worker.side.name]
                result["turns"].append(answer["seconds"])
                result["cpu_turns"].append(answer["cpu_seconds"])
                result |= {"value": answer["value"], "peak_bytes": answer["peak_bytes"]}
            report(f"  turn {turn + 1} of {turns}")
    return results
