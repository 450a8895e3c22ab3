"""What a study found: the contents of study.json, and the pictures of its page."""

import dataclasses
import hashlib

import numpy as np

from evaluation import augmentation_plan, classifiers, gradcam, pictures
from evaluation import augmentation_statistics as statistics
from evaluation.reals import digests

SHOWN_RIGHT, SHOWN_WRONG, SHOWN_SYNTHETIC = 3, 3, 2  # images of the Grad-CAM figure
SAMPLES = 8  # real and synthetic ones of each class
RANDOMIZED = 32  # images whose maps are compared with those of random weights
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8F98")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (8, 2)))
LATE = 0.9  # of the steps: a best checkpoint from there on says that the training was short
MOST_NUMBERED = 12  # classes; the confusion matrices of more show colours alone


def build(study, records):
    """Returns `(report, media)`: what study.json holds, and the pictures for `augmentation_page.render`.

    Args:
        study: `augmentation_study.Study`, its classifiers trained.
        records: As `Study.train_classifiers` returns them.
    """
    plan, split, seeds = study.plan, study.split, range(study.plan.options.seeds)

    def collected(what):
        return {each.name: np.array([records[each.name, seed][what] for seed in seeds]) for each in plan.regimes}

    predictions, labels = collected("predictions"), np.asarray(split.test.labels)
    summary = statistics.summarize(labels, predictions, plan.num_classes, plan.options.seed)
    attention = statistics.attention(labels[study.attended], collected("attention"), plan.options.seed)
    loaded = {regime.name: study.classifier(regime) for regime in plan.regimes}
    for name, likeness in _likeness_to_random(study, loaded, predictions).items():
        attention[name]["rank_correlation_with_random_weights"] = likeness
    regimes = [
        _regime(regime, plan, [records[regime.name, seed] for seed in seeds])
        | summary[regime.name]
        | {"attention": attention[regime.name]}
        for regime in plan.regimes
    ]
    report = {
        "format": 1,
        "title": f"Do synthetic images help? {plan.options.title}",
        "verdict": _verdict(plan, regimes, labels, predictions),
        "notes": _notes(plan, regimes),
        "class_names": list(split.class_names),
        "regimes": regimes,
        "split": {"hashes": study.hashes, "counts": split.counts(), "found": split.found, "seed": plan.options.seed},
        "generators": [_generator(export) for export in study.exports],
        "synthetic": _synthetic(study),
        "classifier": dataclasses.asdict(study.settings) | {"parameters": loaded["real"].count_params()},
        "seeds": plan.options.seeds,
        "attended": len(study.attended),
        "versions": classifiers.versions(),
    }
    media = {
        "curve": _ratio_curve(regimes),
        "learning": _learning_curves(regimes),
        "confusions": [(each["label"], _confusion_chart(each["confusion"], split.class_names)) for each in regimes],
        "gradcam": _gradcam_figure(study, loaded, predictions["real"][0]),
        "samples": _samples(study),
    }
    return report, media


def _regime(regime, plan, records):
    """Returns what is known of a regime without statistics; its learning curve is the mean over the seeds."""
    real, synthetic = augmentation_plan.regime_counts(regime, plan.split)
    histories = zip(*(each["history"] for each in records), strict=True)
    return {
        "name": regime.name,
        "label": regime.label,
        "ratio": regime.ratio,
        "images": {"real": real, "synthetic": synthetic},
        "optimizer_steps": sorted({each["optimizer_steps"] for each in records}),
        "seeds": [
            {
                "seed": each["seed"],
                "best_step": each["best_step"],
                "validation_accuracy": each["validation_accuracy"],
                "test_accuracy": float(np.mean(np.array(each["predictions"]) == plan.split.test.labels)),
            }
            for each in records
        ],
        "history": [{key: float(np.mean([each[key] for each in same])) for key in same[0]} for same in histories],
    }


# Words


def _verdict(plan, regimes, labels, predictions):
    """Returns the questions with their answers, and a sentence for each regime."""
    found = {each["name"]: each["accuracy"]["difference"] for each in regimes}
    _, classical, *mixed, both, alone = plan.regimes
    added = statistics.difference(
        labels, predictions[both.name], predictions[classical.name], (both.name, classical.name), plan.options.seed
    )
    answer, text = statistics.headline({regime.ratio: found[regime.name] for regime in mixed})
    unseen = "Not that could be seen"
    return {
        "questions": [
            {"question": "Did synthetic images help?", "answer": answer, "sentence": text},
            _answer("Did classical augmentation help?", ("Yes", "No, it did harm", unseen),
                    "Classical augmentation", found[classical.name], "real images alone"),
            _answer("Did synthetic images add to it?", ("Yes", "No, they did harm", unseen),
                    f"{both.ratio:.0%} synthetic as well", added, "classical augmentation alone"),
            _answer("Can they replace the real ones?", ("Yes, with gain", "No", "No difference could be seen"),
                    f"{alone.ratio:.0%} synthetic and none real", found[alone.name], "real images"),
        ],
        "lines": [
            statistics.sentence(regime.label, found[regime.name], "real images alone") for regime in plan.regimes[1:]
        ],
        "classical_synthetic_against_classical": added,
        "attention": _attention_text(regimes),
    }  # fmt: skip


def _answer(question, answers, what, difference, than):
    words = dict(zip(("better", "worse", "not distinguishable from zero"), answers))
    return {
        "question": question,
        "answer": words[statistics.reading(difference)],
        "sentence": statistics.sentence(what, difference, than),
    }


def _attention_text(regimes):
    mixed = [each for each in regimes if each["images"]["real"] and each["images"]["synthetic"]]
    words = [statistics.reading(each["attention"]["difference"], "wider", "narrower") for each in mixed]
    text = f"With real images alone {regimes[0]['attention']['value']:.0%} of a map lies above half its maximum. "
    for kind in ("narrower", "wider", "not distinguishable from zero"):
        labels = [each["label"] for each, word in zip(mixed, words) if word == kind]
        if labels:
            text += f"{kind.capitalize()} with synthetic ones: " if kind in ("narrower", "wider") else "No difference: "
            text += ", ".join(labels) + ". "
    return text.strip()


def _notes(plan, regimes):
    options, split = plan.options, plan.split
    count = len(plan.regimes) - 1
    notes = [
        f"Every classifier took {options.steps:,} optimizer steps of {options.batch_size} images, whatever its images: with "
        "more of them each was seen less often. More data is not more training here.",
        "The checkpoint was chosen by validation accuracy, on real images; the test images were used once, at the end.",
        "Intervals cover the choice of test images and the seeds of the classifiers. They do not cover the generators: "
        "these were trained once, and another training of them may help more or less.",
        f"{count} regimes are compared with the same baseline, each at 95%: by chance alone one in twenty such "
        "comparisons shows a difference.",
        f"Duplicates: {augmentation_plan.duplicates_text(split.found)}.",
    ]
    late = [
        each["label"]
        for each in regimes
        if np.median([one["best_step"] for one in each["seeds"]]) >= LATE * options.steps
    ]
    if late:
        notes.append(
            f"The best checkpoint lies in the last tenth of the training, and more --steps may still change the result, of: "
            f"{'; '.join(late)}."
        )
    if options.seeds < 3:
        notes.append(
            f"Only {options.seeds} seed{'s' if options.seeds > 1 else ''} a regime: how much the seeds matter is hardly known"
            + (", and no interval contains it." if options.seeds == 1 else ".")
        )
    return notes


# Facts


def _generator(export):
    card = export.card
    record = card.get("training", {})
    return {
        "name": export.name,
        "arch": card.get("arch"),
        "variant": card.get("variant"),
        "step": card.get("step"),
        "conditional": export.takes_labels,
        "hyperparameters": card.get("hyperparameters"),
        "images": record.get("num_images"),
        "data_fingerprint": record.get("data_fingerprint"),
    }


def _synthetic(study):
    digest, train, test = (
        hashlib.sha256(),
        set(digests(study.split.train.images)),
        set(digests(study.split.test.images)),
    )
    found = {"equal_to_train": 0, "equal_to_test": 0}
    for images in study.synthetic:
        for each in digests(images):
            digest.update(each)
            found["equal_to_train"] += each in train
            found["equal_to_test"] += each in test
    counts = [len(images) for images in study.synthetic]
    return {"counts": counts, "sha256": digest.hexdigest(), "truncation": study.plan.options.truncation, **found}


# Pictures


def _likeness_to_random(study, loaded, predictions):
    """Returns for each regime the mean rank correlation of its maps with those of its classifier with random weights."""
    rows = study.attended[:: max(1, len(study.attended) // RANDOMIZED)]
    images, likeness = np.asarray(study.split.test.images[rows]), {}
    for name, classifier in loaded.items():
        targets = predictions[name][0][rows]
        own, random = (
            gradcam.heatmaps(each, images, targets) for each in (classifier, gradcam.randomized(classifier, seed=0))
        )
        likeness[name] = float(gradcam.rank_correlation(own, random).mean())
    return likeness


def _gradcam_figure(study, loaded, predicted):
    """Returns the same images through the classifier of each regime: right and wrong by `real`, real and synthetic."""
    test, classes = study.split.test, study.plan.num_classes
    right = predicted == test.labels
    rows = [
        *_of_different_classes(test.labels, right, SHOWN_RIGHT),
        *_of_different_classes(test.labels, ~right, SHOWN_WRONG),
    ]
    makers = np.unique(np.linspace(0, classes - 1, SHOWN_SYNTHETIC).round().astype(int))
    images = np.concatenate([np.asarray(test.images[rows]), *(study.synthetic[label][:1] for label in makers)])
    maps, said = {}, {}
    for regime in study.plan.regimes:
        said[regime.label] = gradcam.predict(loaded[regime.name], images)[0]
        maps[regime.label] = gradcam.heatmaps(loaded[regime.name], images, said[regime.label])
    labels = np.concatenate([test.labels[rows], makers])
    captions = ["real"] * len(rows) + ["synthetic"] * len(makers)
    return gradcam.figure(images, maps, said, labels, study.split.class_names, captions=captions)


def _of_different_classes(labels, chosen, count):
    """Returns the first of the chosen images of each class, at most `count` of them, spread over the classes."""
    first = [np.flatnonzero(chosen & (labels == label))[:1] for label in np.unique(labels)]
    first = np.concatenate(first)
    return first[np.unique(np.linspace(0, len(first) - 1, count).round().astype(int))] if len(first) else first


def _samples(study):
    """Returns `[(class, PNG of real images, PNG of synthetic ones)]`."""
    rows = []
    for label, name in enumerate(study.split.class_names):
        train = study.split.train
        real = np.asarray(train.images[np.flatnonzero(train.labels == label)[:SAMPLES]])
        made = np.asarray(study.synthetic[label][:SAMPLES])
        strips = (pictures.png(pictures.grid(pictures.on_white(each), SAMPLES), least=512) for each in (real, made))
        rows.append((name, *strips))
    return rows


def _ratio_curve(regimes):
    """Draws test accuracy over the ratio of synthetic images, the other regimes as levels."""
    mixed = [each for each in regimes if each["name"] == "real" or each["name"].startswith("synthetic-")]
    mixed = [each for each in mixed if each["images"]["real"]]
    others = [each for each in regimes if each not in mixed]

    def draw(figure, colour):
        plot = figure.subplots()
        values = np.array([each["accuracy"]["value"] for each in mixed])
        reach = np.array([each["accuracy"]["interval"] for each in mixed]).T
        plot.errorbar(
            [100 * each["ratio"] for each in mixed],
            100 * values,
            yerr=100 * np.clip([values - reach[0], reach[1] - values], 0, None),
            marker="o",
            capsize=3,
            color=colour(COLOURS[0]),
            label="real + synthetic",
        )
        for each, shade, dash in zip(others, COLOURS[1:], DASHES[1:]):
            plot.axhline(100 * each["accuracy"]["value"], color=colour(shade), linestyle=dash, label=each["label"])
        plot.set(xlabel="synthetic images, % of the real ones", ylabel="test accuracy, %")
        figure.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=2)

    return pictures.chart(draw)


def _learning_curves(regimes):
    """Draws validation accuracy over the steps, mean over the seeds."""

    def draw(figure, colour):
        plot = figure.subplots()
        for i, each in enumerate(regimes):
            plot.plot(
                [point["step"] for point in each["history"]],
                [100 * point["validation_accuracy"] for point in each["history"]],
                color=colour(COLOURS[i % len(COLOURS)]),
                linestyle=DASHES[i % len(DASHES)],
                linewidth=1.3,
                label=each["label"],
            )
        plot.set(xlabel="optimizer step", ylabel="validation accuracy, %")
        figure.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=2)

    return pictures.chart(draw)


def _confusion_chart(shares, class_names):
    """Draws a confusion matrix, `[classes, classes]`, rows the true classes."""
    shares = np.array(shares)

    def draw(figure, colour):
        plot = figure.subplots()
        plot.pcolormesh(shares[::-1], cmap="Blues", vmin=0, vmax=1)
        places = np.arange(len(class_names)) + 0.5
        plot.set_xticks(places, class_names, rotation=90, fontsize=7)
        plot.set_yticks(places, class_names[::-1], fontsize=7)
        plot.set(xlabel="said", ylabel="true")
        if len(class_names) <= MOST_NUMBERED:
            for row, column in np.ndindex(shares.shape):
                share = shares[row, column]
                where = (column + 0.5, len(class_names) - row - 0.5)
                shade = "#ffffff" if share > 0.5 else "#1b1f24"
                plot.text(*where, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=shade)

    return pictures.chart(draw)
