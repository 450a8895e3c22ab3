"""The work behind `evaluation.augmentation`: generators, synthetic images, classifiers, what they say.

    OUT/train/CLASS/*.png       the train side of the split, for the generators
    OUT/generators/KEY/         run directory and exports of training.fit
    OUT/synthetic/KEY.npy       images drawn
    OUT/classifiers/KEY.json    what one classifier did; KEY names all that decides it
    OUT/classifiers/KEY.keras   its weights, of the first seed of each regime
    OUT/saved_models/REGIME/1   the same as SavedModels
    OUT/study.html, study.json  the result; OUT/timings.json how long each classifier took

Everything is written beside its place and renamed, and what is there is not made again: a study that was killed goes on
where it was, and ends in the same study.json.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from evaluation import augmentation_generators as generators
from evaluation import augmentation_page, augmentation_result, classifiers, gradcam
from evaluation.augmentation_regimes import pool
from evaluation.augmentation_split import write_train_folder
from evaluation.augmentation_training import Settings, predictor, train
from evaluation.report import write_together
from training.callbacks import duration
from training.pictures import save_atomically

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes apart there
    fcntl = None

FORMAT = 1  # counted up when the training of a classifier changes, so that no stale result is read
ATTENDED = 100  # test images whose Grad-CAM maps are measured, about as many of each class


class Study:
    """A study and its directory.

    Args:
        plan: `augmentation_plan.Plan`.
    """

    def __init__(self, plan):
        options = plan.options
        self.plan, self.split, self.out = plan, plan.split, Path(options.out)
        self.settings = Settings(
            classifier=options.classifier,
            weights=options.weights,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            classical=options.classical,
        )
        self.hashes = plan.split.hashes()
        self.attended = first_of_each_class(plan.split.test.labels, plan.num_classes, ATTENDED)
        self.exports, self.synthetic, self._paths = (), (), {}

    @property
    def generator_dir(self):
        """Where the generators of this study are trained, or `None` where they were given."""
        recipe = self.plan.recipe
        return recipe and self.out / "generators" / recipe.key(self.split.image_shape, self.hashes["train"])

    @contextlib.contextmanager
    def alone(self):
        """Keeps other processes out of the directory, and removes what one that was killed left half-written.

        Raises:
            ValueError: If another process is at work there.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        directory = os.open(self.out, os.O_RDONLY) if fcntl is not None else None
        try:
            if directory is not None:
                with contextlib.suppress(OSError):  # a file system without locks
                    try:
                        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        raise ValueError(
                            f"Another process is at work in {self.out}. Wait for it, or give another --out."
                        ) from None
            for pattern in (".*.tmp", "synthetic/.*.tmp", "classifiers/.*"):
                for path in self.out.glob(pattern):
                    if path.is_file():
                        path.unlink()
            yield
        finally:
            if directory is not None:
                os.close(directory)

    def make_synthetic(self):
        """Trains the generators, or checks those that were given, and draws the synthetic images."""
        folder = self.out / "train"
        images = write_train_folder(self.split, folder)
        options = self.plan.options
        self.exports = options.models
        if self.plan.recipe is not None:
            self.exports = generators.train(self.plan.recipe, images, folder, self.generator_dir)
        sources = generators.check(self.exports, images, folder)
        self.synthetic = generators.synthesize(
            sources, self.plan.synthetic_counts, options.truncation, options.seed, self.out / "synthetic"
        )

    def train_classifiers(self):
        """Trains what is not there yet.

        Returns:
            `{(regime's name, seed): record}`, what each `classifiers/KEY.json` holds.
        """
        jobs, records, started, trained = self.plan.jobs, {}, time.monotonic(), 0
        pools = {regime.name: pool(regime, self.split.train, self.synthetic) for regime in self.plan.regimes}
        contents = {name: each.sha256() for name, each in pools.items()}
        with tqdm(total=len(jobs) * self.settings.steps, desc="Classifiers", unit="step", disable=None) as bar:
            for place, (regime, seed) in enumerate(jobs):
                path = self._paths[regime.name, seed] = self._path(regime, seed, contents[regime.name])
                record = _read(path) if seed or path.with_suffix(".keras").exists() else None
                if record is None:
                    record = self._train(regime, seed, pools[regime.name], path, lambda: bar.update(1))
                    trained += 1
                    each = (time.monotonic() - started) / trained
                    bar.write(
                        f"[{place + 1}/{len(jobs)}] {regime.label}, seed {seed}: best validation accuracy "
                        f"{record['validation_accuracy']:.3f} at step {record['best_step']:,}; "
                        f"about {duration(each * (len(jobs) - place - 1))} left"
                    )
                bar.update((place + 1) * self.settings.steps - bar.n)
                records[regime.name, seed] = record
        return records

    def _path(self, regime, seed, content):
        """Returns where the record of a classifier lies: its name follows from everything that decides it."""
        settings = dataclasses.asdict(self.settings)
        settings["weights"] = None if self.settings.weights is None else _file_sha256(self.settings.weights)
        settings["classical"] = self.settings.classical if regime.classical else None
        identity = {
            "format": FORMAT,
            "settings": settings,
            "seed": seed,
            "train": content,
            "validation": self.hashes["validation"],
            "test": self.hashes["test"],
            "classes": self.split.class_names,
            "attended": self.attended.tolist(),
            "versions": classifiers.versions(),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
        return self.out / "classifiers" / f"{key}.json"

    def _train(self, regime, seed, images, path, on_step):
        started = time.monotonic()
        classes = self.plan.num_classes
        done = train(self.settings, images, self.split.validation, classes, regime.classical, seed, on_step)
        predictions = predictor(done.classifier)(self.split.test.images).argmax(axis=1)
        shown = np.asarray(self.split.test.images[self.attended])
        maps = gradcam.heatmaps(done.classifier, shown, predictions[self.attended])
        record = {
            "regime": regime.name,
            "seed": seed,
            "optimizer_steps": done.optimizer_steps,
            "best_step": done.best_step,
            "validation_accuracy": max(each["validation_accuracy"] for each in done.history),
            "history": done.history,
            "predictions": predictions.tolist(),
            "attention": gradcam.attention_share(maps).tolist(),
        }
        if seed == 0:
            _save_keras(done.classifier, path.with_suffix(".keras"))
        save_atomically(path, lambda file: file.write(json.dumps(record).encode()))
        self._note_time(path.stem, time.monotonic() - started)
        return record

    def _note_time(self, key, seconds):
        """Keeps how long a classifier took, apart from the results, which must not depend on it."""
        times = _read(self.out / "timings.json") or {}
        times[key] = {
            "seconds": round(seconds, 1),
            "steps": self.settings.steps,
            "classifier": self.settings.classifier,
        }
        save_atomically(self.out / "timings.json", lambda file: file.write(json.dumps(times, indent=2).encode()))

    def classifier(self, regime):
        """Returns the trained classifier of a regime's first seed as a Keras model."""
        return keras.models.load_model(self._paths[regime.name, 0].with_suffix(".keras"), compile=False)

    def export_classifiers(self):
        """Writes the classifier of each regime's first seed as `saved_models/REGIME/1`, in place of an earlier one."""
        for regime in self.plan.regimes:
            record = {"regime": regime.name, "key": self._paths[regime.name, 0].stem}
            directory = self.out / "saved_models" / regime.name / "1"
            if (_read(directory / "model.json") or {}).get("key") == record["key"]:
                continue
            shutil.rmtree(directory, ignore_errors=True)
            classifiers.export(self.classifier(regime), directory, self.split.class_names, record)

    def write(self, records, command):
        """Writes the exports, `study.html` and `study.json`; returns what to tell of them, in lines.

        Args:
            records: As `train_classifiers` returns them.
            command: To be shown on the page.
        """
        print("Maps, charts and exports ...", file=sys.stderr, flush=True)
        self.export_classifiers()
        report, media = augmentation_result.build(self, records)
        files = {
            "study.html": augmentation_page.render(report, media, command).encode("utf-8"),
            "study.json": json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False).encode("utf-8"),
        }
        write_together(self.out, files)
        answers = [f"{each['question']} {each['answer']}." for each in report["verdict"]["questions"]]
        return [*report["verdict"]["lines"], report["verdict"]["attention"], *answers, self.out / "study.html"]


def first_of_each_class(labels, num_classes, count):
    """Returns the places of about `count` images, the first ones of each class alike, ascending: int `[m]`."""
    share = max(1, count // num_classes)
    places = [np.flatnonzero(labels == label)[:share] for label in range(num_classes)]
    return np.sort(np.concatenate(places))


def _save_keras(classifier, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.keras")
    try:
        classifier.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path):
    """Returns what a JSON file holds, or `None` if there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _file_sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
