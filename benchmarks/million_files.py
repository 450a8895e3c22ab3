"""`python -m benchmarks.million_files`: what a folder of 1,000,000 images in 1,000 class folders costs.

Makes the files (8x8 PNG, all different), then measures, in a process each, the first start (scan, decode, cache, first
batch) and a later one from the cache. Removes them after.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

SIDE = 8


def main(argv=None):
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million_files", description=__doc__.split("\n\n")[1])
    parser.add_argument("--files", type=int, default=1_000_000, help="default 1,000,000")
    parser.add_argument("--folders", type=int, default=1_000, help="default 1,000")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode; default 2")
    parser.add_argument("--directory", help="where the files are made and removed; default a temporary one")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args(argv)
    if arguments.files < arguments.folders or arguments.folders < 1:
        parser.exit(2, f"--files must be at least --folders, and that at least 1. Received: {arguments.files}, "
                       f"{arguments.folders}\n")  # fmt: skip
    root = Path(tempfile.mkdtemp(prefix="million-", dir=arguments.directory))
    try:
        started = time.monotonic()
        make(root / "images", arguments.files, arguments.folders)
        figures = {"files": arguments.files, "folders": arguments.folders, "workers": arguments.workers}
        figures["made_seconds"] = time.monotonic() - started
        for name in ("first start", "second start"):
            figures[name] = measured(root, arguments.workers)
            print(f"{name}: {json.dumps(figures[name])}", flush=True)
        figures["cache_bytes"] = sum(path.stat().st_size for path in (root / "cache").rglob("*") if path.is_file())
        print(f"cache: {figures['cache_bytes'] / 2**20:,.0f} MiB")
    finally:
        shutil.rmtree(root)
    if arguments.json:
        from training.pictures import save_atomically

        save_atomically(Path(arguments.json), lambda file: file.write(json.dumps(figures, indent=2).encode()))
    return 0


def make(directory, num_files, num_folders):
    """Writes `num_files` different PNG files of 8x8 pixels, evenly over `num_folders` folders."""
    for folder in range(num_folders):
        path = directory / f"class{folder:04d}"
        path.mkdir(parents=True)
        for number in range(folder, num_files, num_folders):
            (path / f"{number:07d}.png").write_bytes(_png(number))
        if sys.stderr.isatty():
            print(f"\rmaking files: folder {folder + 1} of {num_folders}", end="", file=sys.stderr)


def _png(number):
    """Returns an 8x8 PNG in one colour per number, made by hand: Pillow would take ten times as long."""
    color = bytes((number & 255, number >> 8 & 255, number >> 16 & 255))
    rows = b"".join(b"\0" + color * SIDE for _ in range(SIDE))
    header = SIDE.to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )


def measured(root, workers):
    """Returns seconds and peak memory of a start in a process of its own."""
    command = [sys.executable, "-c", "from benchmarks import million_files; million_files.start()",
               str(root / "images"), str(root / "cache"), str(workers)]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def start():
    """What a process measures: the images loaded, then the first batch of 64."""
    images_folder, cache, workers = sys.argv[1:]
    from training import data

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    image_set = data.load(images_folder, size=SIDE, workers=int(workers), cache_dir=cache, progress=sys.stderr.isatty())
    loaded = time.monotonic()
    loading_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    next(iter(data.batches(image_set, 64)))
    figures = {
        "images": len(image_set),
        "classes": len(image_set.class_names),
        "load_seconds": loaded - started,
        "files_per_second": len(image_set) / (loaded - started),
        "first_batch_seconds": time.monotonic() - started,
        "peak_mib_before": before / 1024,
        "peak_mib_loading": loading_peak / 1024,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # TensorFlow is most of it
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(main())
