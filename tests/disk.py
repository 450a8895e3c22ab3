"""Faults of a disk that several tests bring about."""

import contextlib
import resource


@contextlib.contextmanager
def largest_file(num_bytes):
    """Within it no file of this process grows beyond `num_bytes`: a write fails in its middle, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
