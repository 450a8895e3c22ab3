"""`python -m benchmarks.all`: runs every benchmark of speed and renders docs/performance.md from the figures.

The page is prose with places for tables; only what stands between `<!-- figures: NAME -->` and `<!-- end -->` is replaced. The
figures that it shows lie beside it, in `figures/NAME.json`: a row that is measured here takes the place of the row there.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from benchmarks import evaluating, growth, loading, quality, touch, training_step
from benchmarks.command import (
    add_common,
    lines_of,
    markdown_table,
    read,
    resolve_common,
)

MODULES = {module.BENCHMARK.name: module for module in (training_step, quality, evaluating, loading, touch, growth)}
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_PLACE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def build_parser():
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.all",
        description="Runs the benchmarks whose figures are missing and puts all figures into docs/performance.md. Hours.",
        allow_abbrev=False,
    )
    add_common(parser)
    for option, what in quality.BENCHMARK.folders.items():
        parser.add_argument(
            f"--{option}", metavar="FOLDER", help=f"of benchmarks.quality, {what}; without, those are left out"
        )
    parser.add_argument("--render", action="store_true", help="measure nothing: put the figures there are on the page")
    parser.add_argument("--page", metavar="FILE", help="default docs/performance.md; with --quick none")
    return parser


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (failed), 2 (wrong option) or 130 (stopped)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    page = Path(arguments.page) if arguments.page else None if arguments.quick else PAGE
    try:
        if not arguments.render:
            resolve_common(arguments)
        if page is not None and not page.is_file():
            raise ValueError(f"--page: there is no {page} to put figures into.")
    except ValueError as error:
        parser.exit(2, f"benchmarks.all: {error}\n")
    if not arguments.render:
        for name, module in MODULES.items():
            print(f"== {name}", flush=True)
            options = _options_of(module, arguments)
            if options is None:
                print("left out: --data and --paintings name its images", flush=True)
                continue
            status = module.main(options)
            if status:
                return status
    if page is not None:
        try:
            render(page, arguments.quick)
        except (OSError, ValueError) as error:
            print(f"benchmarks.all: {error}", file=sys.stderr)
            return 1
        print(page)
    return 0


def _options_of(module, arguments):
    """Returns the options of a benchmark; `None` where the images of all its rows are missing."""
    threads = module.BENCHMARK.threads or arguments.threads
    options = ["--threads", str(threads), "--torch-python", arguments.torch_python]
    options += [f"--{name}" for name in ("quick", "overwrite") if getattr(arguments, name)]
    if module is not quality:
        return options
    folders = {name: getattr(arguments, name) for name in quality.BENCHMARK.folders if getattr(arguments, name)}
    rows = [row for row in quality.BENCHMARK.rows if quality.folder_of(row) in folders]
    for name, folder in folders.items():
        options += [f"--{name}", folder]
    return [*options, "--rows", *rows] if rows else None


def render(page, quick=False):
    """Replaces the tables of a page by those of the figures there are."""
    from training.pictures import save_atomically

    def table(match):
        head, name, end = match.groups()
        if name not in MODULES:
            raise ValueError(f"{page} has a place for unknown figures: {name}.")
        return f"{head}\n{section(MODULES[name].BENCHMARK, page.parent / 'figures', quick)}\n\n{end}"

    text = _PLACE.sub(table, page.read_text(encoding="utf-8"))
    save_atomically(page, lambda file: file.write(text.encode()))


def section(benchmark, folder, quick=False):
    """Returns the table of a benchmark, and on what it was measured, for the page; writes its figures into `folder`."""
    from training.pictures import save_atomically

    published, rows = folder / f"{benchmark.name}.json", {}
    for path in (published, benchmark.file(quick)):
        rows |= read(path, benchmark, quick)["rows"] if path.exists() else {}
    if not lines_of(benchmark, rows):
        return "Not measured yet."
    folder.mkdir(exist_ok=True)
    content = json.dumps({"benchmark": benchmark.name, "quick": quick, "rows": rows}, indent=1)
    save_atomically(published, lambda file: file.write(content.encode()))
    if benchmark.draw is not None:
        benchmark.draw(rows, folder.parent / "images")
    missing = [row for row in benchmark.rows if row not in rows]
    parts = [markdown_table(benchmark, rows), *sorted({provenance(row["measured"]) for row in rows.values()})]
    if missing:
        parts.append(f"Not measured: {', '.join(missing)}.")
    return "\n\n".join(parts)


def provenance(measured):
    """Returns on what machine, when, and with which versions a row was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return (
        f"Measured {measured['date'][:10]} on {measured['processor']}, {measured['threads']} threads of "
        f"{measured['processors']} processors, {measured['memory_bytes'] / 2**30:.0f} GB; {versions}."
    )


if __name__ == "__main__":
    sys.exit(main())
