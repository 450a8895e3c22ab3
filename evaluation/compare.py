"""`python -m evaluation.compare REPORT.json ...`: models or checkpoints side by side, if they can be compared at all."""

import argparse
import json
import sys
from html import escape
from pathlib import Path

from evaluation.judge import READINGS, number_text, show
from evaluation.page import STYLE, chart_card
from evaluation.report import write_together

# What must agree for two figures to be comparable, and what it is called.
SAME = {
    "network": "network",
    "weights_hash": "weights hash",
    "resize": "resize mode",
    "n_real": "number of real images",
    "n_fake": "number of generated images",
}
CHARTED = (
    "kid",
    "frechet",
    "precision",
    "recall",
    "density",
    "coverage",
    "aa_train",
    "aa_test",
    "privacy_loss",
    "authenticity",
)
WITH_UNSEEN = ("aa_test", "privacy_loss", "aa_test_lpips", "privacy_loss_lpips")

EPILOG = """example:
  python -m evaluation.compare reports/mine-1/report.json reports/mine-2/report.json --out reports/compared"""


def build_parser():
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.compare",
        description="Puts reports side by side as a table and a chart. Refuses to compare what was measured differently.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "reports", nargs="+", metavar="REPORT.json", help="written by python -m evaluation.report (or its directory)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="reports/compared",
        help="for compare.html, compare.md and compare.png; default reports/compared",
    )
    return parser


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (cannot be written) or 2 (cannot be compared)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        reports = [read(path) for path in arguments.reports]
        if len(reports) < 2:
            raise ValueError("At least 2 reports are needed. Received: 1.")
        if Path(arguments.out).exists() and not Path(arguments.out).is_dir():
            raise ValueError(f"--out must be a directory. There is a file at {arguments.out!r}.")
        names = distinct_names(reports, arguments.reports)
        differences = differing(reports, names)
        if differences:
            raise ValueError(
                "these reports cannot be compared:\n"
                + "\n".join(f"  {line}" for line in differences)
                + "\nMake them anew with the same options."
            )
    except ValueError as error:
        parser.exit(2, f"evaluation.compare: {error}\n")
    header, rows = table(reports, names)
    charts = chart(reports, names)
    try:
        write_together(
            arguments.out,
            {
                "compare.html": page(header, rows, charts, reports).encode("utf-8"),
                "compare.md": markdown(header, rows, reports).encode("utf-8"),
                "compare.png": charts["light"],
            },
        )
    except OSError as error:
        print(f"evaluation.compare: {error}", file=sys.stderr)
        return 1
    print(text(header, rows))
    print(f"\n{remark(reports)}")
    print(Path(arguments.out) / "compare.html")
    return 0


def read(path):
    """Returns a report.

    Raises:
        ValueError: If it cannot be read, or is none.
    """
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror or error}. Give the report.json files of python -m evaluation.report."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}). Give the report.json files of python -m evaluation.report."
        ) from error
    metrics = report.get("metrics") if isinstance(report, dict) else None
    if (
        not isinstance(metrics, dict)
        or "kid" not in metrics
        or not all(set(SAME) <= set(figure) for figure in metrics.values())
    ):
        raise ValueError(f"{path} is not a report of python -m evaluation.report.")
    return report


def distinct_names(reports, paths):
    """Returns a name for each report, with its version, its seed or its path where that is what tells it apart."""
    candidates = (
        lambda report, path: report["name"] if report["version"] is None else f"{report['name']} {report['version']}",
        lambda report, path: f"{report['title']}, seed {report['made_with']['seed']}",
        lambda report, path: str(path),
    )
    for candidate in candidates:
        names = [candidate(report, path) for report, path in zip(reports, paths)]
        if len(set(names)) == len(names):
            return names
    return [f"{i + 1}: {name}" for i, name in enumerate(names)]


def differing(reports, names):
    """Returns one line for everything that keeps the reports from being compared, saying which has what."""
    lines = []

    def check(what, values):
        if len(set(values)) > 1:
            lines.append(f"{what}: " + "; ".join(f"{name}: {value}" for name, value in zip(names, values)))

    for key, what in SAME.items():
        check(what, [report["metrics"]["kid"][key] for report in reports])
    check("real images (fingerprint)", [report["data"]["train"]["fingerprint"][:16] for report in reports])
    for name in _shared(reports):
        if name in WITH_UNSEEN:
            check(
                f"number of unseen real images of {READINGS[name][0]}",
                [report["metrics"][name]["n_test"] for report in reports],
            )
        for key, what in SAME.items():
            values = [report["metrics"][name][key] for report in reports]
            if values != [report["metrics"]["kid"][key] for report in reports]:
                check(f"{what} of {READINGS[name][0]}", values)
    if all(report["data"].get("test") for report in reports):
        check("unseen real images (fingerprint)", [report["data"]["test"]["fingerprint"][:16] for report in reports])
    return lines


def _shared(reports):
    return [name for name in READINGS if all(name in report["metrics"] for report in reports)]


def table(reports, names):
    """Returns `(header, rows)` of texts: a row a metric, a column a report; the best of a metric with a star."""
    rows = []
    for name in _shared(reports):
        figures = [report["metrics"][name] for report in reports]
        cells = [show(figure) for figure in figures]
        better = figures[0]["better"]
        if better in ("higher", "lower"):
            values = [figure["value"] for figure in figures]
            best = (max if better == "higher" else min)(values)
            cells = [
                f"{cell} *" if value == best and values.count(best) == 1 else cell for cell, value in zip(cells, values)
            ]
        ideal = figures[0].get("null")
        ideal = (
            number_text(ideal)
            if ideal is not None
            else number_text(figures[0]["floor"]["value"])
            if "floor" in figures[0]
            else ""
        )
        rows.append([f"{figures[0]['label']} ({better})", *cells, ideal])
    return ["", *names, "real images"], rows


def remark(reports):
    """Returns how the table is to be read."""
    figure = reports[0]["metrics"]["kid"]
    return (
        f"In brackets 95% intervals; * marks the best value, but where intervals overlap the difference may be chance. {figure['n_real']:,} real and "
        f"{figure['n_fake']:,} generated images, {figure['network']} (weights {figure['weights_hash'][:8]}), resize {figure['resize']}, "
        f"seeds {', '.join(str(report['made_with']['seed']) for report in reports)}. Last column: what real images score, where that is known."
    )


def chart(reports, names):
    """Returns the chart of the main metrics that all the reports have, `{theme: PNG bytes}`."""
    from evaluation.pictures import comparison_chart

    panels = []
    for name in [name for name in _shared(reports) if name in CHARTED]:
        figures = [report["metrics"][name] for report in reports]
        ideals = [
            figure["null"] if figure.get("null") is not None else figure.get("floor", {}).get("value")
            for figure in figures
        ]
        panels.append(
            (
                figures[0]["label"],
                figures[0]["better"],
                [figure["value"] for figure in figures],
                [figure["interval"] for figure in figures],
                ideals,
            )
        )
    return comparison_chart(panels, names)


def text(header, rows):
    """Returns the table for a terminal."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [header, *rows]]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown(header, rows, reports):
    """Returns the table as Markdown."""
    safe = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in safe]
    return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:], "", remark(reports).replace("*", "\\*"), ""])


def page(header, rows, charts, reports):
    """Returns the table and the chart as one self-contained HTML page."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>Models side by side</title><style>{STYLE}</style></head><body><main>'
        f"<h1>Models side by side</h1><p>{escape(remark(reports))}</p>"
        f'<div class="card scroll" tabindex=0><table class=numbers><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f"<h2>Chart</h2>{chart_card(charts, 'The main metrics of the table, with their intervals')}</main></body></html>\n"
    )


if __name__ == "__main__":
    sys.exit(main())
