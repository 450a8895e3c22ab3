"""One run a directory: a lock that ends with its process, so that what a killed run left is no obstacle to the next.

The lock is `flock`'s; the file `.lock` only tells who holds it. On a file system without locks that file is all there is.
"""

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from training.image_cache import try_lock

NAME = ".lock"
_WRITING_SECONDS = 0.2  # between a run's taking the lock and its saying so


class RunInUse(OSError):
    """Another process trains in the same run directory."""


@contextlib.contextmanager
def held(run_dir):
    """Holds the lock of a run directory, which must exist, and clears half-written files that a killed run left in it.

    Raises:
        RunInUse: If another run holds it; tells its process, its machine, when it started, and what to do.
        OSError: If the directory cannot be written to.
    """
    path = Path(run_dir) / NAME
    with _taken(path) as file:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": _now()}))
        file.flush()
        for left in (*path.parent.glob(".*.tmp"), *path.parent.glob("samples/.*.tmp")):
            left.unlink(missing_ok=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _now():
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def _taken(path):
    """Returns the lock file, open and locked."""
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            locked = try_lock(file)
        except OSError:
            locked = not _is_held_without_locks(path)
        if locked and _is_at(path, file):
            return file
        file.close()
        if not locked:
            raise _in_use(path)


def _is_at(path, file):
    """Whether the file that was opened still has its name: the run that had it may have ended in between."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _holder(path):
    """Returns what the lock file says of who holds it; {} if it says nothing."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) and isinstance(holder.get("pid"), int) else {}


def _is_held_without_locks(path):
    holder = _holder(path)
    if not holder or holder.get("host") != socket.gethostname():
        return bool(holder)  # whether a process of another machine lives, nobody can tell here
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return holder["pid"] != os.getpid()


def _in_use(path):
    holder = _holder(path)
    if not holder:
        time.sleep(_WRITING_SECONDS)
        holder = _holder(path)
    pid, host, started = (holder.get(key, "unknown") for key in ("pid", "host", "started"))
    return RunInUse(
        f"{path.parent} is in use by another run: process {pid} on {host}, started {started}. Wait for its end, or stop it "
        f"(kill {pid} there: it saves its state first), or give another --run-dir (or --name). If there is no such process, "
        f"remove {path}."
    )
