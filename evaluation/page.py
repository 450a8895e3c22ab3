"""A report as one HTML page that needs nothing else: style inline, pictures as data URIs, no script.

It reads on a phone and on a desk, light and dark, and aloud: headings in order, a text for every picture.
"""

import base64
from html import escape

from evaluation.judge import number_text, threshold_lines

QUESTIONS = {
    "distinguishable": "Can it be told from real images?",
    "copies": "Does it copy the training images?",
    "covers": "Does it cover the variety of the data?",
}
# Which answers are good news; the word stands there as well, colour is never alone.
GOOD = {"distinguishable": ("no",), "copies": ("no sign",), "covers": ("yes",)}
MIDDLING = {"covers": ("partly",)}
GROUPS = (
    (
        "Likeness to the real images",
        ("kid", "frechet", "precision", "recall", "density", "coverage", "inception_score"),
    ),
    ("Copying, by features", ("aa_train", "aa_test", "privacy_loss", "authenticity", "near_copies", "exact_copies")),
    ("Copying, by LPIPS", ("aa_train_lpips", "aa_test_lpips", "privacy_loss_lpips", "authenticity_lpips")),
)

STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d8dde3;
  --good: #00664b; --bad: #a33b00; --middle: #5b5200; --link: #0060a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d0f12; --card: #15181c; --ink: #e6e8eb; --soft: #a3abb5;
  --line: #30363d; --good: #2cc79a; --bad: #f0a030; --middle: #d8c64a; --link: #6bb8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; } p { margin: .4rem 0; } a { color: var(--link); }
.soft, .made, figcaption { color: var(--soft); } .made, figcaption, small { font-size: .8rem; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1rem; }
.answer { font-size: 1.4rem; font-weight: 700; margin: .1rem 0; }
.good { color: var(--good); } .bad { color: var(--bad); } .middle { color: var(--middle); }
.value { font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; margin: .1rem 0; }
.beside { font-variant-numeric: tabular-nums; }
figure { margin: 0; } img { max-width: 100%; height: auto; border-radius: .3rem; }
.pixels img, .pixels { image-rendering: pixelated; }
.charts { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
.charts .card { max-width: 36rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; } th, td { padding: .3rem .45rem; text-align: left; vertical-align: top; }
thead th { font-size: .8rem; color: var(--soft); font-weight: 600; } .facts th { color: var(--soft); font-weight: 500; white-space: nowrap; }
.facts td, .facts th { border-bottom: 1px solid var(--line); } .numbers td, .numbers th { border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.tables { display: flex; flex-wrap: wrap; gap: 0 3rem; } .tables section { flex: 0 1 auto; } .pictures { width: 100%; table-layout: fixed; } .pictures img { width: 100%; display: block; }
.pictures td, .pictures th { padding: .2rem; } .pictures thead th { font-size: clamp(.62rem, 2.6vw, .8rem); overflow-wrap: normal; }
.pictures small { color: var(--soft); line-height: 1.25; display: block; font-size: clamp(.62rem, 2.6vw, .8rem); }
.own img { outline: 3px solid var(--bad); outline-offset: -1px; }
ul { padding-left: 1.2rem; margin: .4rem 0; } .notes, details { margin-top: 1rem; } summary { cursor: pointer; } code { font-size: .85em; }
@media (max-width: 40rem) { .facts th, .facts td { display: block; border-bottom: 0; padding: 0 0 .1rem; } .facts td { padding-bottom: .6rem; } }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""


def render(report, media):
    """Returns the page.

    Args:
        report: What `report.json` holds.
        media: Pictures, each `None` or missing where there is none: `samples` and `reals` (PNG bytes), `neighbours`
            (list of dicts with `title`, `columns`, `rows`, `note`), `scatters` (`{panel: chart}`), `curves` and
            `losses` (lists of `(title, chart)`), `reconstructions` (PNG bytes).
    """
    title = f"{report['name']}: evaluation"
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}</style></head><body>',
        f"<header><h1>{escape(report['title'])}</h1><p class=soft>{escape(report['subtitle'])}</p></header><main>",
        _verdict(report),
        _samples(report, media),
        *(
            _figures(title, [report["metrics"][name] for name in names if name in report["metrics"]])
            for title, names in GROUPS
        ),
        _versions(report, media),
        f"<div class=tables>{''.join(map(_neighbours, media.get('neighbours') or ()))}</div>",
        _scatters(report, media),
        _reconstructions(media),
        _charts(
            "Training losses",
            media.get("losses"),
            "How the losses of the run went. Losses of adversarial training do not measure quality.",
        ),
        _facts(report),
    ]
    return "\n".join(filter(None, parts)) + "\n</main></body></html>\n"


def _verdict(report):
    if "verdict" not in report:
        text = "This page compares real images with other real images: the best that any generator can reach with this data, number of images and network. Read the figures of a model beside these."
        return f"<section><h2>In short</h2><p class=card>{text}</p>{_notes(report)}</section>"
    cards = []
    for name, question in QUESTIONS.items():
        answer = report["verdict"][name]
        kind = (
            "good"
            if answer["answer"] in GOOD[name]
            else "middle"
            if answer["answer"] in MIDDLING.get(name, ())
            else "bad"
        )
        cards.append(
            f"<section class=card><h3>{question}</h3><p class='answer {kind}'>{escape(answer['answer'].capitalize())}</p>"
            f"<p>{escape(answer['sentence'])}</p></section>"
        )
    rules = "".join(f"<li>{escape(line)}</li>" for line in threshold_lines())
    return (
        f"<section><h2>In short</h2><div class=cards>{''.join(cards)}</div>{_notes(report)}"
        f"<details><summary>The rules behind these answers</summary><ul>{rules}</ul></details></section>"
    )


def _notes(report):
    notes = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    return f"<div class=notes><h3>To bear in mind</h3><ul>{notes}</ul></div>" if notes else ""


def _figures(title, figures):
    if not figures:
        return ""
    return f"<section><h2>{title}</h2><div class=cards>{''.join(map(_figure, figures))}</div></section>"


def _figure(entry):
    beside = []
    if entry["interval"]:
        beside.append(f"95% interval: {number_text(entry['interval'][0])} to {number_text(entry['interval'][1])}")
    if "floor" in entry:
        floor = entry["floor"]
        spread = (
            f" ({number_text(floor['interval'][0])} to {number_text(floor['interval'][1])})"
            if floor.get("interval")
            else ""
        )
        beside.append(f"Real against real: {number_text(floor['value'])}{spread}, with {floor['n']:,} images a side")
    if entry.get("value_at_floor_n") is not None:
        beside.append(f"Generated, at that number: {number_text(entry['value_at_floor_n'])}")
    if entry.get("null") is not None:
        beside.append(f"A perfect generator: {number_text(entry['null'])}")
    if entry.get("unseen_real") is not None:
        beside.append(f"Unseen real images: {number_text(entry['unseen_real'])}")
    if entry.get("aa_train_at_n") is not None:
        beside.append(
            f"From accuracies at {entry['n']:,} images each: test {number_text(entry['aa_test_at_n'])}, train {number_text(entry['aa_train_at_n'])}"
        )
    return (
        f"<section class=card><h3>{escape(entry['label'])} <small class=soft>({escape(entry['better'])} is {'better' if entry['better'] in ('higher', 'lower') else 'ideal'})</small></h3>"
        f"<p class=value>{number_text(entry['value'])}</p>"
        + "".join(f"<p class=beside>{escape(line)}</p>" for line in beside)
        + f"<p>{escape(entry['how_to_read'])}</p><p class=made>{escape(made_with(entry))}</p></section>"
    )


def made_with(entry):
    """Returns what a figure was made with, as one line."""
    counts = (
        f"{entry['n_real']:,} real"
        + (f", {entry['n_test']:,} unseen real" if entry.get("n_test") else "")
        + f", {entry['n_fake']:,} generated"
    )
    return f"{counts} · {entry['network']} (weights {entry['weights_hash'][:8]}) · resize {entry['resize']} · seed {entry['seed']}"


def _samples(report, media):
    if not media.get("samples"):
        return ""
    shown = report["samples_shown"]
    pictures = _image(
        media["samples"], f"Grid of {shown} generated images, in the order of their seeds, none left out."
    )
    reals = _image(media["reals"], f"Grid of {shown} real images, evenly taken from the data.")
    return (
        f"<section><h2>Samples</h2><div class=cards>"
        f"<figure class='card pixels'>{pictures}<figcaption>{escape(report['samples_caption'])}</figcaption></figure>"
        f"<figure class='card pixels'>{reals}<figcaption>Real images, for comparison: every so many of the data.</figcaption></figure></div></section>"
    )


def _neighbours(table):
    head = "".join(f"<th scope=col>{escape(column)}</th>" for column in table["columns"])
    rows = []
    for row in table["rows"]:
        cells = []
        for place, (picture, caption, alt) in enumerate(row):
            kind = " class=own" if place == 0 else ""
            cells.append(
                f"<td{kind}>{_image(picture, alt)}<small>{escape(caption).replace(chr(10), '<br>')}</small></td>"
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    width = 9 * len(table["columns"])
    return (
        f"<section style='width: {width}rem'><h2>{escape(table['title'])}</h2><p>{escape(table['note'])}</p>"
        f"<table class='pictures pixels'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _versions(report, media):
    if len(report.get("versions", ())) < 2:
        return ""
    names = [name for name in ("kid", "frechet", "precision", "recall", "density", "coverage", "aa_train", "aa_test", "privacy_loss")
             if name in report["versions"][0]["metrics"]]  # fmt: skip
    head = "".join(f"<th scope=col>{escape(report['versions'][0]['metrics'][name]['label'])}</th>" for name in names)
    rows = []
    for version in report["versions"]:
        mark = " (best KID)" if version["version"] == report["best_version"] else ""
        step = "" if version["step"] is None else f"{version['step']:,}"
        cells = "".join(f"<td>{number_text(version['metrics'][name]['value'])}</td>" for name in names)
        rows.append(f"<tr><th scope=row>{version['version']}{mark}</th><td>{step}</td>{cells}</tr>")
    table = (
        f"<div class='card scroll' tabindex=0><table class=numbers><thead><tr><th scope=col>Version</th><th scope=col>Step</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    text = f"The best KID is that of version {report['best_version']}. Differences within the intervals are chance, and the best of many is a little flattered."
    return (
        f"<section><h2>Over the exported versions</h2><p>{text}</p>{table}{_chart_grid(media.get('curves'))}</section>"
    )


def _scatters(report, media):
    if not media.get("scatters"):
        return ""
    text = "The features on the two directions in which the training images vary most. Generated images should lie over the real ones, spread as they are; two directions show only a part of the whole."
    return (
        f"<section><h2>Principal components</h2><p>{text}</p>{_chart_grid(list(media['scatters'].items()))}</section>"
    )


def _reconstructions(media):
    if not media.get("reconstructions"):
        return ""
    alt = "Pairs of rows: real images, and below each what the model makes of it."
    return (
        "<section><h2>Reconstructions</h2><p>Real images that the model encoded and decoded: original above, reconstruction below.</p>"
        f"<figure class='card pixels'>{_image(media['reconstructions'], alt)}</figure></section>"
    )


def _charts(title, charts, text):
    return f"<section><h2>{title}</h2><p>{text}</p>{_chart_grid(charts)}</section>" if charts else ""


def _chart_grid(charts):
    figures = [chart_card(chart, title) for title, chart in charts or ()]
    return f"<div class=charts>{''.join(figures)}</div>" if figures else ""


def chart_card(chart, title):
    """Returns a chart, `{theme: PNG bytes}`, with its caption."""
    return f"<figure class=card>{_chart(chart, title)}<figcaption>{escape(title)}</figcaption></figure>"


def _facts(report):
    rows = "".join(
        f"<tr><th scope=row>{escape(key)}</th><td>{escape(str(value))}</td></tr>"
        for key, value in report["facts"].items()
    )
    return f"<section><h2>What was compared</h2><div class='card scroll' tabindex=0><table class=facts><tbody>{rows}</tbody></table></div></section>"


def _image(content, alt):
    return f'<img alt="{escape(alt)}" src="{_data_uri(content)}">'


def _chart(chart, alt):
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{_data_uri(chart["dark"])}">'
        f'<img alt="{escape("Chart: " + alt)}" src="{_data_uri(chart["light"])}"></picture>'
    )


def _data_uri(content):
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
