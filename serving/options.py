"""The command line of `serving.app` as one checked, frozen configuration. Nothing here imports TensorFlow."""

import argparse
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

TOKEN_VARIABLE = "SERVING_TOKEN"

EPILOG = f"""examples:
  python -m serving.app                                     the models in saved_models/, at http://127.0.0.1:8501
  python -m serving.app --models exports --port 9000 --versions 3
  python -m serving.app --host 0.0.0.0 --token-file token.txt          for other machines, with a token
  python -m serving.app --upstream http://127.0.0.1:8601    the page and pictures in front of a TensorFlow Serving

Without --token-file, the token is what the environment variable {TOKEN_VARIABLE} holds; without either, none is asked
for. /metrics is for Prometheus, /healthz and /readyz for whoever starts and stops the server."""


@dataclass(frozen=True)
class Options:
    """The command line, checked. Sizes and times are those of `Limits` and `Batcher`."""

    models: Path
    host: str
    port: int
    versions: int
    poll: float
    upstream: str | None
    upstream_models: tuple
    token: str | None
    max_batch: int
    batch_wait: float
    queue: int
    max_body: int
    max_count: int
    max_pixels: int
    max_frames: int
    timeout: float
    max_connections: int

    @property
    def local(self):
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def build_parser():
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.app",
        description="Serves exported models over HTTP: a page to look at, pictures, and TensorFlow Serving's REST interface.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what is served")
    what.add_argument(
        "--models", metavar="DIR", default="saved_models", help="holds NAME/VERSION; default saved_models"
    )
    what.add_argument("--versions", metavar="N", type=int, default=2, help="newest versions of each model; default 2")
    what.add_argument(
        "--poll", metavar="S", type=float, default=2.0, help="seconds between looks for new ones; default 2"
    )
    what.add_argument("--upstream", metavar="URL", help="let the TensorFlow Serving at this REST address compute")
    what.add_argument(
        "--upstream-model", metavar="NAME", action="append", help="a model of it; repeatable; default those of --models"
    )

    where = parser.add_argument_group("for whom")
    where.add_argument("--host", default="127.0.0.1", help="address to bind; default 127.0.0.1, this machine only")
    where.add_argument("--port", type=int, default=8501, help="default 8501; 0 takes a free one")
    where.add_argument("--token-file", metavar="FILE", help="holds the bearer token that clients must show")

    batching = parser.add_argument_group("batching")
    batching.add_argument("--max-batch", metavar="N", type=int, default=32, help="rows, a power of two; default 32")
    batching.add_argument(
        "--batch-wait",
        metavar="MS",
        type=float,
        default=2.0,
        help="milliseconds that a request waits for others; default 2",
    )
    batching.add_argument("--queue", metavar="N", type=int, default=1024, help="rows that may wait; default 1024")

    limits = parser.add_argument_group("limits of a request")
    limits.add_argument("--max-body", metavar="BYTES", type=int, default=16 * 2**20, help="default 16777216")
    limits.add_argument("--max-count", metavar="N", type=int, default=256, help="images; default 256")
    limits.add_argument("--max-pixels", metavar="N", type=int, default=2**22, help="of all its images; default 4194304")
    limits.add_argument("--max-frames", metavar="N", type=int, default=60, help="of a walk, one way; default 60")
    limits.add_argument("--timeout", metavar="S", type=float, default=60.0, help="seconds to an answer; default 60")
    limits.add_argument("--max-connections", metavar="N", type=int, default=1024, help="at a time; default 1024")
    return parser


def resolve(arguments):
    """Turns parsed arguments into `Options`.

    Raises:
        ValueError: If one is wrong; the message says what it must be, what was received and what to do.
    """
    for option, least in (("versions", 1), ("max_batch", 1), ("queue", 1), ("max_body", 1), ("max_count", 1),
                          ("max_pixels", 1), ("max_frames", 2), ("max_connections", 1), ("batch_wait", 0)):  # fmt: skip
        if not getattr(arguments, option) >= least:
            raise ValueError(
                f"--{option.replace('_', '-')} must be at least {least}. Received: {getattr(arguments, option)}."
            )
    for option in ("poll", "timeout"):
        if not 0 < getattr(arguments, option) < float("inf"):
            raise ValueError(f"--{option} must be a number of seconds above 0. Received: {getattr(arguments, option)}.")
    if arguments.max_batch & (arguments.max_batch - 1):
        raise ValueError(f"--max-batch must be a power of two. Received: {arguments.max_batch}.")
    if not arguments.batch_wait < 60_000:
        raise ValueError(f"--batch-wait must be less than 60000 milliseconds. Received: {arguments.batch_wait}.")
    if arguments.queue < arguments.max_count:
        raise ValueError(
            f"--queue must be at least --max-count, {arguments.max_count}, or the largest request could never be "
            f"answered. Received: {arguments.queue}."
        )
    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535. Received: {arguments.port}.")
    if arguments.upstream is not None:
        _check_upstream(arguments.upstream)
    elif arguments.upstream_model:
        raise ValueError("--upstream-model goes with --upstream.")
    if not Path(arguments.models).is_dir() and not arguments.upstream_model:
        raise ValueError(
            f"--models must be a directory with NAME/VERSION in it. There is none at {arguments.models!r}. "
            "python -m training.fit exports a model."
        )
    return Options(
        models=Path(arguments.models),
        host=arguments.host,
        port=arguments.port,
        versions=arguments.versions,
        poll=arguments.poll,
        upstream=arguments.upstream,
        upstream_models=tuple(arguments.upstream_model or ()),
        token=_token(arguments.token_file),
        max_batch=arguments.max_batch,
        batch_wait=arguments.batch_wait / 1000,
        queue=arguments.queue,
        max_body=arguments.max_body,
        max_count=arguments.max_count,
        max_pixels=arguments.max_pixels,
        max_frames=arguments.max_frames,
        timeout=arguments.timeout,
        max_connections=arguments.max_connections,
    )


def _check_upstream(url):
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise ValueError(f"--upstream must be http://HOST:PORT, the address of its REST interface. Received: {url!r}.")


def _token(path):
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        where = TOKEN_VARIABLE
    else:
        where = "--token-file"
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ValueError(f"--token-file cannot be read: {error}") from error
        if not token:
            raise ValueError(f"--token-file is empty: {path!r}. Put one line of text into it.")
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError(f"{where}: a token is printable ASCII without spaces. Make one with: openssl rand -hex 32")
    return token or None
