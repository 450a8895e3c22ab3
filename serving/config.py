"""`python -m serving.config`: TensorFlow Serving's configuration for everything exported.

It writes `models.config`, for `--model_config_file`, and `batching.config`, for `--batching_parameters_file`.
"""

import argparse
import os
import sys
from pathlib import Path, PurePosixPath

EPILOG = """examples:
  python -m serving.config --models saved_models                        paths of this machine
  python -m serving.config --models saved_models --base-path /models    paths inside TensorFlow Serving's container
  python -m serving.config --models saved_models --latest 2             keep the last version beside the new one"""


def build_parser():
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.config",
        description="Writes models.config and batching.config, with which TensorFlow Serving serves every export.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--models", metavar="DIR", default="saved_models", help="holds NAME/VERSION; default saved_models"
    )
    parser.add_argument("--out", metavar="DIR", help="where the two files go; default: beside the models")
    parser.add_argument(
        "--base-path", metavar="PATH", help="where the server finds the models; default: the absolute path of --models"
    )
    parser.add_argument("--latest", metavar="N", type=int, default=1, help="newest versions to serve; default 1")
    parser.add_argument(
        "--max-batch", metavar="N", type=int, default=32, help="rows of a batch at most, a power of two; default 32"
    )
    parser.add_argument(
        "--batch-wait", metavar="MS", type=float, default=5.0, help="milliseconds that a batch waits; default 5"
    )
    parser.add_argument(
        "--batch-threads", metavar="N", type=int, help="batches computed at once; default: the cores of this machine"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that say something else")
    return parser


def check(arguments):
    """Raises ValueError for the first wrong option; the message names it and says what to do."""
    for option, value, least in (
        ("--latest", arguments.latest, 1),
        ("--max-batch", arguments.max_batch, 1),
        ("--batch-threads", arguments.batch_threads, 1),
        ("--batch-wait", arguments.batch_wait, 0),
    ):
        if value is not None and not value >= least:
            raise ValueError(f"{option} must be at least {least}. Received: {value}.")
    if arguments.max_batch & (arguments.max_batch - 1):
        raise ValueError(f"--max-batch must be a power of two. Received: {arguments.max_batch}.")
    if arguments.base_path and not PurePosixPath(arguments.base_path).is_absolute():
        raise ValueError(f"--base-path must be an absolute path. Received: {arguments.base_path!r}.")
    if not Path(arguments.models).is_dir():
        raise ValueError(
            f"--models must be a directory with NAME/VERSION in it. There is none at {arguments.models!r}."
        )
    if not exported(arguments.models):
        raise ValueError(
            f"--models: no SavedModel under {arguments.models!r} (NAME/VERSION/saved_model.pb). "
            "python -m training.fit exports one."
        )


def exported(models):
    """Returns the names under a directory that have a version with a SavedModel in it, sorted."""
    found = {path.parents[1].name for path in Path(models).glob("*/*/saved_model.pb") if path.parent.name.isdigit()}
    return sorted(name for name in found if not name.startswith("."))


def models_config(names, base_path, latest=1):
    """Returns the text of a `ModelServerConfig`.

    Args:
        names: Names of the models.
        base_path: Absolute path under which the server finds `NAME/VERSION`.
        latest: How many of the newest versions are served.

    Raises:
        ModuleNotFoundError: If tensorflow-serving-api is not installed.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for name in names:
        entry = config.model_config_list.config.add()
        entry.name = name
        entry.base_path = str(PurePosixPath(base_path) / name)
        entry.model_platform = "tensorflow"
        entry.model_version_policy.latest.num_versions = latest
    return text_format.MessageToString(config)


def batching_config(max_batch, wait_ms, threads):
    """Returns the text of a `BatchingParameters`, a message that tensorflow-serving-api does not carry.

    Args:
        max_batch: Rows of a batch at most, a power of two. Smaller batches are filled up to a power of two, so that
            the kernels meet few sizes.
        wait_ms: Milliseconds that a request waits for others at most.
        threads: Batches computed at the same time.
    """
    fields = {
        "max_batch_size": max_batch,
        "batch_timeout_micros": round(wait_ms * 1000),
        "max_enqueued_batches": 4 * threads,  # beyond it the answer is 503
        "num_batch_threads": threads,
    }
    lines = [f"{name} {{ value: {value} }}" for name, value in fields.items()]
    lines += [f"allowed_batch_sizes: {1 << power}" for power in range(max_batch.bit_length())]
    return "\n".join(lines) + "\n"


def write(directory, files, overwrite):
    """Writes `{name: text}` into a directory, each through a temporary file; returns `{path: what happened}`.

    Raises:
        FileExistsError: If one is there already and says something else, unless `overwrite`; nothing is written then.
    """
    directory, outcome = Path(directory), {}
    for name, text in files.items():
        path = directory / name
        old = path.read_text(encoding="utf-8") if path.exists() else None
        outcome[path] = "unchanged" if old == text else "written" if old is None else "replaced"
        if outcome[path] == "replaced" and not overwrite:
            raise FileExistsError(f"{path} exists and says something else. Give --overwrite to replace it.")
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        temporary = directory / f".{name}.{os.getpid()}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, directory / name)
        finally:
            temporary.unlink(missing_ok=True)
    return outcome


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (failed) or 2 (wrong option)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        check(arguments)
    except ValueError as error:
        parser.exit(2, f"serving.config: {error}\n")
    names = exported(arguments.models)
    base_path = arguments.base_path or Path(arguments.models).resolve()
    threads = arguments.batch_threads or os.cpu_count() or 1
    try:
        files = {
            "models.config": models_config(names, base_path, arguments.latest),
            "batching.config": batching_config(arguments.max_batch, arguments.batch_wait, threads),
        }
        outcome = write(arguments.out or arguments.models, files, arguments.overwrite)
    except (OSError, ModuleNotFoundError) as error:
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        missing = isinstance(error, ModuleNotFoundError)
        hint = ": pip install --no-deps -r requirements-nodeps.txt" if missing else ""
        print(f"serving.config: {error}{hint}", file=sys.stderr)
        return 1
    for path, what in outcome.items():
        print(f"{path}: {what}")
    print(f"{len(names)} models under {base_path}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
