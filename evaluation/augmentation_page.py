"""A study as one HTML page that needs nothing else, in the look of `evaluation.page`."""

from html import escape

from evaluation import page
from evaluation.augmentation_plan import duplicates_text
from evaluation.augmentation_statistics import points, reading

STYLE = """
.numbers th, .numbers td, .strips th { overflow-wrap: normal; } .numbers td { min-width: 4.5rem; }
.strips img { min-width: 16rem; } .wide figure { min-width: 52rem; }
"""
GOOD, BAD = ("Yes", "Yes, with gain"), ("No", "No, it did harm", "No, they did harm")


def render(report, media, command):
    """Returns the page.

    Args:
        report: What `study.json` holds.
        media: Pictures, as `augmentation_result.build` returns them.
        command: The command line that made it.
    """
    title = escape(report["title"])
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{page.STYLE}{STYLE}</style></head><body>',
        f"<header><h1>{title}</h1><p class=soft>The same classifier, trained for the same number of steps on real images, "
        "on real and synthetic ones, and on synthetic ones alone, tested on real images that none of them saw.</p></header><main>",
        _verdict(report),
        _regimes(report),
        _section(
            "Over the ratios, and over the training",
            "Left: dots are test accuracies with 95% intervals, lines the other regimes. Right: accuracy on the "
            "validation images, mean over the seeds; of each seed the checkpoint with the highest one was tested.",
            page._chart_grid([("Test accuracy", media["curve"]), ("Learning curves", media["learning"])]),
        ),
        _classes(report),
        _section(
            "What is taken for what",
            "Rows are true classes, columns what the classifier said, in percent of the row, mean over the seeds. The "
            "diagonal is what is right.",
            page._chart_grid(media["confusions"]),
        ),
        _attention(report, media),
        _samples(media),
        _facts(report, command),
    ]
    return "\n".join(parts) + "\n</main></body></html>\n"


def _section(title, text, body):
    return f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>{body}</section>"


def _table(header, rows):
    """Returns a table of texts, the first column and the header as headings."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f'<div class="card scroll" tabindex=0><table class=numbers><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _verdict(report):
    cards = []
    for each in report["verdict"]["questions"]:
        kind = "good" if each["answer"] in GOOD else "bad" if each["answer"] in BAD else "middle"
        cards.append(
            f"<section class=card><h3>{escape(each['question'])}</h3><p class='answer {kind}'>{escape(each['answer'])}</p>"
            f"<p>{escape(each['sentence'])}</p></section>"
        )
    lines = "".join(f"<li>{escape(line)}</li>" for line in report["verdict"]["lines"])
    notes = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    return (
        f"<section><h2>In short</h2><div class=cards>{''.join(cards)}</div><ul>{lines}</ul>"
        f"<div class=notes><h3>To bear in mind</h3><ul>{notes}</ul></div></section>"
    )


def _percent(found):
    low, high = found["interval"]
    return f"{points(found['value'], signed=False)} ({points(low, signed=False)} to {points(high, signed=False)})"


def _difference(found):
    low, high = found["interval"]
    return f"{points(found['value'])} ({points(low)} to {points(high)})"


def _regimes(report):
    rows = []
    for i, each in enumerate(report["regimes"]):
        accuracy, macro_f1 = each["accuracy"], each["macro_f1"]
        differences = [_difference(accuracy["difference"]), _difference(macro_f1["difference"])] if i else ["", ""]
        rows.append(
            [
                each["label"],
                f"{each['images']['real']:,} + {each['images']['synthetic']:,}",
                ", ".join(f"{steps:,}" for steps in each["optimizer_steps"]),
                _percent(accuracy),
                differences[0],
                reading(accuracy["difference"]) if i else "the baseline",
                _percent(macro_f1),
                differences[1],
                ", ".join(points(seed["test_accuracy"], signed=False) for seed in each["seeds"]),
            ]
        )
    header = ["Trained on", "Real + synthetic", "Steps", "Test accuracy, %", "Against real, points", "Which is",
              "Macro-F1, %", "Against real, points", "Accuracy of each seed"]  # fmt: skip
    text = (
        f"{sum(report['split']['counts']['test']):,} test images, {report['seeds']} seeds, mean over the seeds. In brackets "
        "95% intervals by a bootstrap over test images and seeds; differences are paired, image by image. Macro-F1 counts "
        "every class alike."
    )
    return _section("The regimes", text, _table(header, rows))


def _classes(report):
    header = ["Class", *(each["label"] for each in report["regimes"])]
    rows = [
        [
            name,
            *(
                f"{points(each['recall'][i], signed=False)} / {points(each['f1'][i], signed=False)}"
                for each in report["regimes"]
            ),
        ]
        for i, name in enumerate(report["class_names"])
    ]
    text = "Share of the images of each class that was recognized, and F1, both in percent, mean over the seeds."
    return _section("Class by class", text, _table(header, rows))


def _attention(report, media):
    rows = [
        [
            each["label"],
            _percent(each["attention"]),
            _difference(each["attention"]["difference"]) if i else "",
            reading(each["attention"]["difference"], "wider", "narrower") if i else "the baseline",
            f"{each['attention']['rank_correlation_with_random_weights']:.2f}".replace("-", "\N{MINUS SIGN}"),
        ]
        for i, each in enumerate(report["regimes"])
    ]
    header = [
        "Trained on",
        "Map above half its maximum, %",
        "Against real, points",
        "Which is",
        "Likeness to random weights",
    ]
    text = (
        f"Grad-CAM of the class that each classifier says, on the same images. The table is of {report['attended']} test "
        "images and all seeds: the share of each map above half its maximum, small where little of the image decides. Last "
        "column: rank correlation of the maps with those of the same network with random weights; near 1 they would show the "
        "image and nothing that was learned."
    )
    figure = page.chart_card(media["gradcam"], "The same images through the classifier of each regime, first seed")
    body = (
        f"<p>{escape(report['verdict']['attention'])}</p>{_table(header, rows)}"
        f"<div class='notes scroll wide' tabindex=0>{figure}</div>"
    )
    return _section("Where the classifiers look", text, body)


def _samples(media):
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{page._image(real, f'Real images of {name}')}</td>"
        f"<td>{page._image(made, f'Synthetic images of {name}')}</td></tr>"
        for name, real, made in media["samples"]
    )
    head = "<tr><th scope=col>Class</th><th scope=col>Real, of the train side</th><th scope=col>Synthetic, the first ones</th></tr>"
    table = f"<div class='card scroll' tabindex=0><table class='pixels strips'><thead>{head}</thead><tbody>{rows}</tbody></table></div>"
    return _section("What the classifiers were given", "Uncurated: the first images of each class.", table)


def _facts(report, command):
    split, settings, synthetic = report["split"], report["classifier"], report["synthetic"]
    facts = {
        side.capitalize() + " images": f"{sum(split['counts'][side]):,}; sha256 {split['hashes'][side]}"
        for side in split["counts"]
    }
    facts["Duplicates"] = duplicates_text(split["found"])
    facts["Classifier"] = (
        f"{settings['classifier']}, {settings['parameters']:,} weights, "
        + (f"from {settings['weights']}" if settings["weights"] else "from scratch")
        + f"; {settings['steps']:,} steps x {settings['batch_size']}, Adam {settings['learning_rate']:g} falling along a cosine"
    )
    facts["Classical augmentation"] = ", ".join(settings["classical"])
    for each in report["generators"]:
        kind = "conditional" if each["conditional"] else "unconditional"
        facts[f"Generator {each['name']}"] = (
            f"{' '.join(filter(None, (each['arch'], each['variant'])))}, {kind}, step {each['step']:,}, trained on "
            f"{each['images']:,} images; fingerprint {each['data_fingerprint']}"
        )
    facts["Synthetic images"] = (
        f"{sum(synthetic['counts']):,}, truncation {synthetic['truncation']:g}; {synthetic['equal_to_train']} equal a train "
        f"image and {synthetic['equal_to_test']} a test image in every pixel; sha256 {synthetic['sha256']}"
    )
    facts["Versions"] = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    facts["Command"] = command
    return page._facts({"facts": facts})
