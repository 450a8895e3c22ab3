"""Fuzzes one reader of `targets.py` with atheris (libFuzzer): `python tests/fuzz/run_atheris.py weights --seconds 600`.

Atheris is no dependency of the project: `pip install atheris` first. What it finds lies in the directory `--out`.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import atheris

INSTRUMENTED = [
    "zoo",
    "training",
    "serving",
    "evaluation",
    "targets",
    "PIL",
    "zipfile",
    "json",
    "numpy.lib",
    "argparse",
]
REPOSITORY = Path(__file__).parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument(
        "--out", type=Path, default=Path(tempfile.gettempdir()) / "zoo-fuzz", help="corpus and findings"
    )
    arguments = parser.parse_args()

    sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]
    with atheris.instrument_imports(include=INSTRUMENTED):
        import targets
    out = arguments.out / arguments.target
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(targets.seeds(arguments.target)):
        (out / "corpus" / f"seed_{number}").write_bytes(content)
    counts = Counter()

    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:

        def one(content):
            counts[targets.run(arguments.target, content, Path(folder))] += 1
            # libFuzzer ends the process itself: what is to be known must be written before.
            if sum(counts.values()) % 1000 == 0:
                (out / "counts.txt").write_text(f"{dict(counts)}\n")

        for content in targets.seeds(arguments.target):  # imports what is imported on first use
            one(content)
        options = [
            "-max_len=16384", "-timeout=20", "-rss_limit_mb=3000", f"-max_total_time={arguments.seconds}",
            "-print_final_stats=1", f"-artifact_prefix={out}/", str(out / "corpus"),
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
