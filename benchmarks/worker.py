"""One side of a measurement in a process of its own: `python -m benchmarks.worker MODULE:FUNCTION ARGUMENTS`.

The function is called with the arguments (JSON) and returns `(step, facts)`; the step is then timed as often as a line
on standard input asks. Answers are JSON, a line each. It runs in any environment that has what the function imports.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path


def main():
    """Builds the case, then answers `{"steps": K}` with the times of K steps until its input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    module, _, function = sys.argv[1].partition(":")
    start = time.perf_counter()
    step, facts = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    started = {"build_seconds": time.perf_counter() - start, "facts": facts, "resident_bytes": resident_bytes()}
    print(json.dumps(started), file=answers)
    for line in sys.stdin:
        wall, cpu = [], []
        for _ in range(json.loads(line)["steps"]):
            start, start_cpu = time.perf_counter(), time.process_time()
            value = step()
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "value": value, "peak_bytes": peak}), file=answers)


def resident_bytes():
    """Returns the memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
