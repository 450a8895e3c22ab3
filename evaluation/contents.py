"""What a report shows besides figures: samples, neighbours, closest pairs, curves and losses."""

import csv
from pathlib import PurePosixPath

import numpy as np

from evaluation import pictures
from evaluation.judge import number_text
from evaluation.neighbors import nearest, normalized

NUM_SAMPLES = 64
NUM_ROWS = 6
NUM_NEIGHBOURS = 4
NUM_PAIRS = 8
MOST_PANELS = 8
_THUMBNAIL = {"least": 96, "most": 192}


def samples(fake, train):
    """Returns `(grid of the first generated images, grid of as many real ones, how many)`, as PNG bytes."""
    count = min(NUM_SAMPLES, len(fake), len(train))
    count -= count % 8 if count > 8 else 0
    reals = train[np.linspace(0, len(train) - 1, count).astype(int)]
    grids = [pictures.png(pictures.grid(images), least=640, most=1280) for images in (fake[:count], reals)]
    return (*grids, count)


def neighbour_tables(fake, train, test, features, distance, labels=("Generated", "Training")):
    """Returns the tables of nearest neighbours and of closest pairs, for `page.render`.

    Args:
        fake: uint8 images `[n, height, width, channels]`.
        train, test: `reals.Images`; test may be `None`.
        features: `(fake, train, test)`, a row an image. For "cosine" of any length; for "LPIPS" the embeddings.
        distance: "cosine" or "LPIPS".
        labels: What the two sets are called.
    """
    fake_features, train_features, test_features = features
    if distance == "cosine":
        fake_features, train_features = normalized(fake_features), normalized(train_features)
        test_features = None if test_features is None else normalized(test_features)
    halved = 2 if distance == "cosine" else 1  # |x - y|^2 of unit vectors is 2 (1 - cosine)
    own, other = labels

    def cell(images, name, place, kind, squared=None):
        caption = name if squared is None else f"{number_text(squared / halved)}\n{PurePosixPath(name).stem}"
        far = "" if squared is None else f", at a distance of {number_text(squared / halved)}"
        return pictures.png(images[place], **_THUMBNAIL), caption, f"{kind} {name}{far}"

    k = min(NUM_NEIGHBOURS, len(train_features))
    shown = min(NUM_ROWS, len(fake_features))
    distances, places = nearest(fake_features[:shown], train_features, k=k)
    rows = [
        [cell(fake, f"no. {i + 1}", i, f"{own} image")]
        + [cell(train.pixels, train.names[j], j, f"{other} image", d * d) for d, j in zip(distances[i], places[i])]
        for i in range(shown)
    ]
    grid = {
        "title": f"Nearest {other.lower()} images, by {distance}",
        "note": f"The first {shown} {own.lower()} images, uncurated, each with the {k} nearest of {len(train_features):,} {other.lower()} images. Distances are {_explained(distance)}.",
        "columns": [own, *(["Nearest", "2nd", "3rd", "4th"][:k])],
        "rows": rows,
    }

    distances, places = (found[:, 0] for found in nearest(fake_features, train_features))
    order = np.argsort(distances, kind="stable")[:NUM_PAIRS]
    rows = [
        [
            cell(fake, f"no. {i + 1}", i, f"{own} image"),
            cell(train.pixels, train.names[places[i]], places[i], f"nearest {other.lower()} image", distances[i] ** 2),
        ]
        for i in order
    ]
    columns = [own, f"Nearest {other.lower()}"]
    if test_features is not None:
        columns.append("Nearest unseen")
        for i, row in zip(order, rows):
            far, near = nearest(fake_features[i : i + 1], test_features)
            row.append(cell(test.pixels, test.names[near[0, 0]], near[0, 0], "nearest unseen image", far[0, 0] ** 2))
    pairs = {
        "title": f"Closest pairs, by {distance}",
        "note": f"The {len(order)} {own.lower()} images, of {len(fake_features):,}, that lie closest to a {other.lower()} image: the worst cases. Copies would show here first."
        + (
            " An unseen image about as close means that the subject is simply common."
            if test_features is not None
            else ""
        ),
        "columns": columns,
        "rows": rows,
    }
    return [grid, pairs]


def _explained(distance):
    return (
        "1 minus the cosine of the features: 0 for the same image"
        if distance == "cosine"
        else "LPIPS (AlexNet): 0 for the same image"
    )


def reconstructions(model, train):
    """Returns originals and reconstructions as PNG bytes, or `None` if the model makes none."""
    if not model.can_reconstruct:
        return None
    originals = train.pixels[np.linspace(0, len(train) - 1, min(16, len(train))).astype(int)]
    remade = model.reconstruct(originals)
    rows = []
    for start in range(0, len(originals), 8):
        for images in (originals, remade):
            part = pictures.on_white(images[start : start + 8])
            missing = min(8, len(originals)) - len(part)
            rows.append(np.concatenate([part, np.full((missing, *part.shape[1:]), 255, np.uint8)]))
    return pictures.png(pictures.grid(np.concatenate(rows), columns=min(8, len(originals))), least=640, most=1280)


def scatters(train, test, fakes):
    """Returns the PCA scatters of `{version name: features}`, of at most `MOST_PANELS` versions, first and last among them."""
    names = list(fakes)
    if len(names) > MOST_PANELS:
        names = [names[round(i)] for i in np.linspace(0, len(names) - 1, MOST_PANELS)]
    return pictures.pca_scatters(train, test, {name: fakes[name] for name in names})


def version_curves(versions, best):
    """Returns `[(title, chart)]` of some metrics over the exported versions."""
    steps = [version["step"] for version in versions]
    by_step = None not in steps and len(set(steps)) == len(steps)
    places = steps if by_step else [version["version"] for version in versions]
    best_place = next(i for i, version in enumerate(versions) if version["version"] == best)
    curves = []
    for name in ("kid", "frechet", "precision", "recall", "coverage", "privacy_loss", "aa_train"):
        figures = [version["metrics"].get(name) for version in versions]
        if None in figures:
            continue
        chart = pictures.metric_curve(
            figures[0]["label"],
            places,
            [figure["value"] for figure in figures],
            [figure["interval"] for figure in figures],
            best_place if name == "kid" else None,
            figures[0].get("floor", {}).get("value") if name == "kid" else None,
            "step (generator updates)" if by_step else "version",
        )
        curves.append((f"{figures[0]['label']} over the exported versions", chart))
    return curves


def losses(path):
    """Returns `[(title, chart)]` of the losses in a `metrics.csv`.

    Raises:
        ValueError: If it cannot be read as one.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in (rows[0] if rows else ()) if name and name.endswith("loss")]
        columns = {}
        for name in names:
            known = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
            columns[name] = ([step for step, _ in known], [value for _, value in known])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as the metrics of a run ({type(error).__name__}: {error}).") from error
    return [("Losses over the steps of the run", pictures.loss_curves(columns))] if columns else []
