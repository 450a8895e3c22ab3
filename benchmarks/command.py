"""What the benchmarks' command lines share: options, rows that are kept as they are measured, tables."""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn", "pillow")


@dataclass(frozen=True)
class Benchmark:
    """One question and how it is answered.

    Args:
        name: Of the module and of the file of figures.
        title: What is measured, a line.
        rows: Names of the rows, in the order of measuring.
        measure: Function of (row, `Options`) to the figures of the row, as JSON has them.
        columns: Heads of the table.
        cells: Function of (row, figures) to the cells of one or more lines, a list of lists of texts.
        needs_torch: Whether there is a peer in PyTorch.
        folders: {option: what its folder holds}, of those that it takes.
        threads: Of every side by default; all processors if None.
        draw: Function of (rows, folder) that writes the pictures of the page; None if there are none.
    """

    name: str
    title: str
    rows: tuple
    measure: object
    columns: tuple
    cells: object
    needs_torch: bool = True
    folders: dict = field(default_factory=dict)
    threads: int | None = None
    draw: object = None

    def file(self, quick=False):
        """Returns where the figures are kept."""
        return HERE / f"{self.name}{'-quick' if quick else ''}.json"


@dataclass(frozen=True)
class Options:
    """What a measurement heeds: `torch_python` is None where PyTorch is left out; `report` takes lines on progress."""

    quick: bool
    threads: int
    torch_python: str | None
    turns: int | None = None
    data: str | None = None
    paintings: str | None = None
    report: object = print


def run(benchmark, argv=None):
    """Runs the command line of a benchmark; returns the exit status: 0, 1 (failed), 2 (wrong option), 130 (stopped)."""
    parser = build_parser(benchmark)
    arguments = parser.parse_args(argv)
    try:
        rows, options = resolve(benchmark, arguments)
    except ValueError as error:
        parser.exit(2, f"benchmarks.{benchmark.name}: {error}\n")
    path = Path(arguments.out or benchmark.file(options.quick))
    try:
        with limited_processors(options.threads):
            figures = measured(benchmark, rows, options, path, arguments.overwrite)
    except KeyboardInterrupt:
        print(f"Stopped. The rows measured so far are in {path}; the same command goes on.", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, ValueError) as error:
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        print(f"benchmarks.{benchmark.name}: {error}", file=sys.stderr)
        return 1
    print(text_table(benchmark, figures))
    print(path)
    return 0


def build_parser(benchmark):
    """Returns the parser of a benchmark's options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{benchmark.name}",
        description=f"{benchmark.title} Rows that the file of figures has are not measured again, so the same "
        "command goes on where it stopped.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rows", metavar="ROW", nargs="+", help=f"of {', '.join(benchmark.rows)}; default all that --quick has"
    )
    add_common(parser)
    if benchmark.threads is not None:
        parser.set_defaults(threads=benchmark.threads)
    parser.add_argument("--turns", metavar="N", type=int, help="turns of each side; default depends on the row")
    parser.add_argument("--out", metavar="FILE", help=f"default benchmarks/{benchmark.name}.json (-quick.json)")
    for option, what in benchmark.folders.items():
        parser.add_argument(f"--{option}", metavar="FOLDER", help=what)
    return parser


def add_common(parser):
    """Adds the options that `benchmarks.all` has as well."""
    parser.add_argument(
        "--quick", action="store_true", help="smallest sizes, to see that it runs; figures mean nothing"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, default=available_processors(), help="of every side; default all processors"
    )
    parser.add_argument(
        "--torch-python",
        metavar="PATH",
        default=os.environ.get("TORCH_PYTHON", sys.executable),
        help="interpreter that has torch, numpy and pillow (default: TORCH_PYTHON, or this one), or none",
    )
    parser.add_argument("--overwrite", action="store_true", help="measure again what has been measured")


def available_processors():
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def limited_processors(count):
    """Keeps this process, and all that it starts meanwhile, to the first `count` processors it may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def resolve(benchmark, arguments):
    """Returns `(rows, Options)`.

    Raises:
        ValueError: If an option is wrong.
    """
    from zoo.registry import unknown_name

    for row in arguments.rows or ():
        if row not in benchmark.rows:
            raise ValueError(f"--rows: {unknown_name('row', row, benchmark.rows)}")
    if arguments.turns is not None and arguments.turns < 1:
        raise ValueError(f"--turns must be at least 1. Received: {arguments.turns}")
    folders = {option: getattr(arguments, option) for option in benchmark.folders}
    for option, folder in folders.items():
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"--{option} must be a folder. Received: {folder!r}")
    torch_python = resolve_common(arguments, benchmark.needs_torch)
    rows = tuple(arguments.rows or benchmark.rows)
    return rows, Options(arguments.quick, arguments.threads, torch_python, arguments.turns, **folders)


def resolve_common(arguments, needs_torch=True):
    """Returns the interpreter that has PyTorch, or None where it is to be left out, or not needed.

    Raises:
        ValueError: If the number of threads or the interpreter is wrong.
    """
    if not 1 <= arguments.threads <= available_processors():
        raise ValueError(
            f"--threads must be from 1 to {available_processors()}, the processors here. Received: {arguments.threads}"
        )
    if arguments.torch_python == "none" or not needs_torch:
        return None
    if not has_torch(arguments.torch_python):
        raise ValueError(
            f"--torch-python: {arguments.torch_python!r} is no interpreter with torch. Give the path of one, or none to "
            "measure without PyTorch."
        )
    return arguments.torch_python


def has_torch(python):
    """Returns whether an interpreter finds torch, without importing it."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    try:
        return subprocess.run([python, "-I", "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def measured(benchmark, rows, options, path, overwrite=False):
    """Measures rows and writes each to `path` as it is done; returns all rows there, `{row: figures}`.

    Raises:
        ValueError: If the file holds something else.
        RuntimeError: If a side of a row fails.
    """
    from training.pictures import save_atomically

    content = {"benchmark": benchmark.name, "quick": options.quick, "rows": {}}
    if path.exists():
        content = read(path, benchmark, options.quick)
    versions = None
    for row in rows:
        if row in content["rows"] and not overwrite:
            options.report(f"{row}: measured before (--overwrite measures it again)")
            continue
        options.report(f"{row}:")
        versions = versions or installed_versions(options.torch_python)
        about = surroundings(options.threads) | {"versions": versions}
        content["rows"][row] = benchmark.measure(row, options) | {"measured": about}
        save_atomically(path, lambda file: file.write(json.dumps(content, indent=2).encode()))
    return content["rows"]


def read(path, benchmark, quick=False):
    """Returns the content of a file of figures.

    Raises:
        ValueError: If it is not one of this benchmark.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        same = (content["benchmark"], content["quick"]) == (benchmark.name, quick)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of figures ({error}). Give another --out.") from None
    if not same:
        raise ValueError(f"{path} holds figures of another benchmark, or of --quick. Give another --out.")
    return content


def surroundings(threads):
    """Returns the machine, the date and the load at this moment."""
    from training.export import git_commit

    processor = platform.machine()
    about = Path("/proc/cpuinfo")
    if about.exists():
        named = re.search(r"model name\s*:\s*(.+)", about.read_text(encoding="utf-8", errors="replace"))
        processor = named[1] if named else processor
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": processor,
        "processors": available_processors(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": platform.platform(),
        "load_average": os.getloadavg()[0],
        "commit": git_commit(),
    }


def installed_versions(torch_python):
    """Returns the versions of Python, of the packages here, and of PyTorch there."""
    import importlib.metadata

    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    if torch_python is not None:
        command = [torch_python, "-c", "import importlib.metadata as m; print(m.version('torch'))"]
        versions["torch"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return versions


def lines_of(benchmark, rows):
    """Returns the cells of the table, line by line, of the rows that have been measured, in the benchmark's order."""
    return [cells for row in benchmark.rows if row in rows for cells in benchmark.cells(row, rows[row])]


def text_table(benchmark, rows):
    """Returns the table for a terminal."""
    lines = [benchmark.columns, *lines_of(benchmark, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(benchmark.columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def markdown_table(benchmark, rows):
    """Returns the table for a page."""
    lines = [benchmark.columns, ["---"] * len(benchmark.columns), *lines_of(benchmark, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds_text(seconds):
    """Returns a duration in three digits, in s, ms or min."""
    for unit, size in (("min", 60.0), ("s", 1.0)):
        if seconds >= (2 * size if unit == "min" else size):
            return f"{seconds / size:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"


def ratio_text(ratio):
    """Returns a ratio's median and quartiles."""
    return f"{ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f})"
