"""The work behind `evaluation.report`: from checked options to the contents of report.json and the pictures of the page."""

import dataclasses
import logging
import sys
import time

import numpy as np
from tqdm import tqdm

from evaluation import contents, features, judge, pictures, reals, subject
from training import data

LPIPS = "lpips-alex"
LPIPS_BYTES = 3 * 2**29  # of embeddings in memory, at most


class Stages:
    """Says on standard error what is being done, and how long it has taken so far."""

    def __init__(self, count):
        self._count, self._done, self._started = count, 0, time.monotonic()

    def __call__(self, text):
        self._done += 1
        print(
            f"[{self._done}/{self._count}] {text} ({time.monotonic() - self._started:.0f} s so far)",
            file=sys.stderr,
            flush=True,
        )


def judge_all(options):
    """Returns `(report, media)` for `report.Options`: what `page.render` takes."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of every set of features that it traces anew
    stage = Stages(6)
    stage("Reading")
    model = subject.ExportedModel(options.directories[options.version]) if options.directories else None
    shape = model.image_shape if model else (*_pair(options.size), 3)
    own = {} if model is None or options.real_vs_real else model.card.get("training", {})
    held_out = model.held_out() if model and not options.real_vs_real else None
    real = reals.load(options, shape, held_out, own)
    train, test, names = real.train, real.test, ("Generated", "Training")

    stage("Gathering the generated images" if not options.real_vs_real else "Parting the real images")
    if options.real_vs_real:
        train, test, fake = _two_real_sets(real, options.seed)
        steps, names = {None: None}, ("Real", "Other real")
        fakes = {None: fake}
    else:
        fakes, steps = _generated(options, model, shape, train)
    chosen = pictures.on_white(fakes[options.version])
    if len(chosen) < 2:
        raise ValueError(f"At least 2 generated images are needed. Received: {len(chosen)}.")

    stage(f"Features by {options.features}")
    extracted = _Extractor(options.features, options.resize, options.weights)
    train_features = extracted(train.pixels, "real")
    test_features = None if test is None else extracted(test.pixels, "unseen real")
    spare_features = None if real.spare is None or options.real_vs_real else extracted(real.spare, "real")
    # Newest first, so that a model that cannot be judged fails before its older versions are looked at.
    of_version = {
        version: extracted(fakes.pop(version), "generated")
        for version in sorted(fakes, key=lambda each: each != options.version)
    }
    made_with = {
        "network": train_features.network,
        "weights_hash": train_features.weights_hash,
        "resize": train_features.resize,
    }

    stage("Measuring")
    measured = {}
    for version in tqdm(
        sorted(of_version, key=lambda each: each or 0), desc="Measuring", unit="version", disable=len(of_version) < 2
    ):
        found = of_version[version]
        exact = None
        if version == options.version:
            whole = (
                real.digests if shape[2] != 4 and not options.real_vs_real else set()
            )  # of all, not only of those used
            exact = _share_in(chosen, whole | set(reals.digests(pictures.on_white(train.pixels))))
        measured[version] = judge.measure(
            train_features.features,
            None if test is None else test_features.features,
            found.features,
            made_with,
            seed=options.seed,
            logits=found.logits,
            distance_name=features.distance_name(options.features),
            exact_copies=exact,
            more_real=None if spare_features is None else spare_features.features,
        )
    metrics, notes = measured[options.version], list(real.notes)

    stage("Neighbours by LPIPS")
    displayed = _Displayed(train), None if test is None else _Displayed(test)
    found = (of_version[options.version], train_features, test_features)
    tables = contents.neighbour_tables(chosen, *displayed, [each and each.features for each in found], "cosine", names)
    try:
        lpips_metrics, lpips_tables = _by_lpips(chosen, *displayed, options, names, notes)
    except (ValueError, OSError) as error:  # no weights installed; the report is whole without
        notes.append(f"LPIPS is missing from this report: {error}")
    else:
        metrics |= lpips_metrics
        tables = [lpips_tables[0], tables[0], tables[1], lpips_tables[1]]

    stage("Drawing")
    versions = [
        {"version": version, "step": steps[version], "metrics": metrics} for version, metrics in measured.items()
    ]
    best = min(versions, key=lambda each: each["metrics"]["kid"]["value"])["version"]
    report = _texts(options, model, train, test, made_with) | {
        "metrics": metrics,
        "notes": notes,
        "thresholds": judge.THRESHOLDS,
    }
    if not options.real_vs_real:
        report["verdict"] = judge.verdict(metrics)
    if len(versions) > 1:
        report |= {"versions": versions, "best_version": best}
    panels = {_panel(options, version, steps): of_version[version].features for version in measured}
    sample_grid, real_grid, report["samples_shown"] = contents.samples(chosen, displayed[0].pixels)
    scatter, shares = contents.scatters(
        train_features.features, None if test is None else test_features.features, panels
    )
    report["explained_variance"] = [float(share) for share in shares]
    media = {
        "samples": sample_grid,
        "reals": real_grid,
        "neighbours": tables,
        "scatters": scatter,
        "curves": contents.version_curves(versions, best) if len(versions) > 1 else None,
        "reconstructions": contents.reconstructions(model, train) if model and not options.real_vs_real else None,
        "losses": contents.losses(options.run_dir / "metrics.csv") if options.run_dir else None,
    }
    return report, media


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)


class _Displayed:
    """`reals.Images` as they are shown and compared: without alpha."""

    def __init__(self, images):
        self.pixels, self.names = pictures.on_white(images.pixels), images.names

    def __len__(self):
        return len(self.pixels)


class _Extractor:
    """Features of images by one network, with what kind of images they are in every message."""

    def __init__(self, network, resize="clean", weights=None):
        self._options = {"network": network, "resize": resize, "weights": weights}

    def __call__(self, images, kind):
        try:
            return features.extract_features(pictures.on_white(images), **self._options)
        except ValueError as error:
            raise ValueError(f"Features of the {kind} images: {error}") from error


def _generated(options, model, shape, train):
    """Returns `({version: uint8 images}, {version: step})`."""
    if options.kind == "images":
        images = data.load(options.images, size=shape[:2], channels=3)
        if images.skipped:
            print(f"{len(images.skipped)} files of {options.images} could not be read.", file=sys.stderr)
        places = np.arange(len(images))
        if len(places) > options.count:
            places = np.sort(np.random.default_rng([options.seed, 3]).permutation(len(places))[: options.count])
        return {None: np.asarray(images.images[places])}, {None: None}
    count = options.count if options.count_given else len(train)
    labels = train.labels[np.random.default_rng([options.seed, 4]).integers(len(train), size=count)]
    fakes, steps = {}, {}
    for version, directory in options.directories.items():
        each = model if version == options.version else subject.ExportedModel(directory)
        if each.image_shape != shape:
            raise ValueError(
                f"Versions must make images of one shape. Received: {each.image_shape} in {directory}, and {shape}."
            )
        fakes[version], steps[version] = each.sample(count, options.seed, labels), each.step
    return fakes, steps


def _two_real_sets(real, seed):
    """Returns `(train, no test, "generated")`: unseen or further real images as if generated, or else two halves."""
    if real.test is not None:
        return real.train, None, real.test.pixels
    if real.spare is not None and len(real.spare) == len(real.train):
        return real.train, None, real.spare
    n = len(real.train) // 2
    if n < 2:
        raise ValueError(
            f"--real-vs-real parts the real images in two: at least 4 are needed. Received: {len(real.train)}."
        )
    first, second = judge.halves(len(real.train), n, seed)
    names = [real.train.names[place] for place in first]
    return (
        dataclasses.replace(real.train, pixels=real.train.pixels[first], names=names, labels=real.train.labels[first]),
        None,
        real.train.pixels[second],
    )


def _share_in(images, known):
    return sum(digest in known for digest in reals.digests(images)) / len(images)


def _by_lpips(fake, train, test, options, names, notes):
    """Returns the figures and tables of neighbours by LPIPS, of as many images as fit into memory."""
    extract = _Extractor(LPIPS)
    width = extract(fake[:1], "generated").features.shape[1]
    most = max(8, LPIPS_BYTES // (4 * width * (2 if test is None else 3)))
    if max(len(fake), len(train)) > most:
        notes.append(
            f"LPIPS was computed for the first {most:,} images of each kind: its embeddings are large at this size."
        )
        fake, train, test = fake[:most], _first(train, most), None if test is None else _first(test, most)
    found = [
        None if images is None else extract(images, "LPIPS")
        for images in (fake, train.pixels, None if test is None else test.pixels)
    ]
    made_with = {"network": found[0].network, "weights_hash": found[0].weights_hash, "resize": found[0].resize}
    fake_features, train_features, test_features = same_distances([each and each.features for each in found])
    tables = contents.neighbour_tables(
        fake, train, test, (fake_features, train_features, test_features), "LPIPS", names
    )
    return judge.measure_lpips(train_features, test_features, fake_features, made_with, seed=options.seed), tables


def same_distances(sets, block=8192):
    """Returns sets of features `[n, d]` (or `None`) with the same distances, in as many dimensions as there are rows, if
    these are fewer: LPIPS embeddings have some 100,000.

    The rows of V sqrt(L) have the Gram matrix V L V^T of the features. Equal rows stay equal to the last bit.
    """
    present = [features for features in sets if features is not None]
    total, width = sum(map(len, present)), present[0].shape[1]
    if width <= total:
        return sets
    gram = np.zeros((total, total))
    for start in range(0, width, block):
        part = np.concatenate([features[:, start : start + block] for features in present]).astype(np.float64)
        gram += part @ part.T
    values, vectors = np.linalg.eigh(gram)
    first = {}
    owners = [
        first.setdefault(row.tobytes(), place)
        for place, row in enumerate(row for features in present for row in features)
    ]
    reduced = (vectors * np.sqrt(np.clip(values, 0, None)))[owners]
    parts = iter(np.split(reduced, np.cumsum([len(features) for features in present])[:-1]))
    return [None if features is None else next(parts) for features in sets]


def _first(images, count):
    return reals.Images(images.pixels[:count], images.names[:count], None, "", "", len(images))


def _panel(options, version, steps):
    if options.real_vs_real:
        return "The second set of real images stands as “generated”"
    if version is None:
        return options.name
    return f"Version {version}" + ("" if steps[version] is None else f", step {steps[version]:,}")


def _texts(options, model, train, test, made_with):
    """Returns the headings, captions and facts of the report."""
    title = options.name + (f", version {options.version}" if options.version is not None else "")
    if options.kind != "model":
        title = f"Real against real: {options.data}" if options.real_vs_real else f"Images in {options.images}"
    facts = {}
    if model is not None:
        card = model.card
        facts["Model"] = str(model.directory)
        facts["Architecture"] = (
            " ".join(str(card[key]) for key in ("arch", "variant") if card.get(key)) or "not said by the SavedModel"
        )
        if card.get("step") is not None:
            facts["Trained for"] = f"{card['step']:,} steps; exported {card.get('created', 'at an unknown time')}"
    elif options.images:
        facts["Generated images"] = options.images
    facts["Real images"] = (
        f"{options.data}{_classes(options)}: {len(train):,} of {train.total:,} used, {train.pixels.shape[1]}x{train.pixels.shape[2]} pixels; fingerprint {train.fingerprint}"
    )
    if test is not None:
        facts["Unseen real images"] = (
            f"{test.source}: {len(test):,} of {test.total:,} used; fingerprint {test.fingerprint}"
        )
    facts["Feature network"] = f"{made_with['network']}; sha256 of the weights {made_with['weights_hash']}"
    facts["Resize mode"] = made_with["resize"]
    facts["Seed"] = options.seed
    where = (
        "as the files hold them"
        if options.kind == "images"
        else f"from seed {options.seed * subject.SEEDS_APART} on, truncation 1, as bytes by the signature “sample”"
    )
    return {
        "kind": options.kind,
        "name": options.name,
        "version": options.version,
        "title": title,
        "subtitle": "How close generated images are to real ones, whether they are copies, and whether they are varied."
        if not options.real_vs_real
        else "What a perfect generator would score: two sets of real images against each other.",
        "samples_caption": "The other real images." if options.real_vs_real else f"Uncurated: the first ones, {where}.",
        "facts": facts,
        "model": None
        if model is None
        else {
            key: model.card[key]
            for key in ("arch", "variant", "image_shape", "step", "created", "git_commit")
            if key in model.card
        },
        "data": {
            "train": {
                "source": options.data,
                "classes": list(options.classes),
                "fingerprint": train.fingerprint,
                "total": train.total,
                "used": len(train),
            },
            "test": None
            if test is None
            else {"source": test.source, "fingerprint": test.fingerprint, "total": test.total, "used": len(test)},
        },
        "made_with": made_with | {"seed": options.seed},
    }


def _classes(options):
    return f" ({', '.join(options.classes)})" if options.classes else ""
