"""The split of a labelled set into train, validation and test images: by content, so that no picture is on two sides.

Two images are duplicates if their pixels are equal once decoded, whatever their files say. A group of duplicates goes to
one side as a whole, by a draw from its content and the seed: the same picture lands on the same side wherever it lies.
"""

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.reals import digests
from training import data
from training.transforms import uniform

SIDES = ("train", "validation", "test")
LEAST = {"train": 2, "validation": 1, "test": 1}  # images a class
TOP = "."  # what training.data calls the class of images beside the class folders
_STREAM = 71  # of draws, apart from those of training.data


@dataclasses.dataclass(frozen=True)
class Split:
    """Three `ImageSet`s with the same classes, and what was found on the way.

    Args:
        train, validation, test: `training.data.ImageSet`.
        found: Counts of duplicates; see `make`.
    """

    train: data.ImageSet
    validation: data.ImageSet
    test: data.ImageSet
    found: dict

    @property
    def class_names(self):
        return self.train.class_names

    @property
    def image_shape(self):
        return tuple(self.train.images.shape[1:])

    def counts(self):
        """Returns `{side: images of each class, int [classes]}`."""
        return {
            side: np.bincount(getattr(self, side).labels, minlength=len(self.class_names)).tolist() for side in SIDES
        }

    def hashes(self):
        """Returns `{side: hex}` of the pixels and labels, in their order."""
        return {side: content_hash(getattr(self, side).images, getattr(self, side).labels) for side in SIDES}


def content_hash(images, labels):
    """Returns the hex digest of images uint8 `[n, height, width, channels]` and their labels, in their order."""
    digest = hashlib.sha256(np.ascontiguousarray(labels, "<i4").tobytes())
    for each in digests(images):
        digest.update(each)
    return digest.hexdigest()


def make(images, test=None, validation_share=0.1, test_share=0.2, seed=0):
    """Splits labelled images, every class in the same proportions.

    Args:
        images: `ImageSet` with labels.
        test: `ImageSet` of the same classes to test on; then none of `images` are, and those of `images` that are also
            in `test` are left out. `None`: `test_share` of `images`.
        validation_share: Of each class, for choosing the best checkpoint.
        test_share: Of each class, for testing.
        seed: Any integer.

    Returns:
        A `Split`. `found` has `duplicates` (images of which there is an equal one), `groups` (of these), `two_labels` (such
        groups whose images have several labels), `in_test` (images left out since the test set has them) and
        `duplicates_in_test`.

    Raises:
        ValueError: If the images are not labelled, or a class has too few of them.
    """
    _check_labels(images)
    found, left_out = {"duplicates_in_test": 0}, {}
    if test is not None:
        _check_same_classes(images, test)
        left_out = _groups(test)
        found["duplicates_in_test"] = sum(len(group) for group in left_out.values() if len(group) > 1)
    keep = [group for digest, group in _groups(images).items() if digest not in left_out]
    found["in_test"] = len(images) - sum(map(len, keep))
    several = [group for group in keep if len(group) > 1]
    found |= {
        "duplicates": sum(map(len, several)),
        "groups": len(several),
        "two_labels": sum(len(set(images.labels[group])) > 1 for group in several),
    }
    rows = {side: [] for side in SIDES}
    for label in range(len(images.class_names)):
        own = [group for group in keep if images.labels[group[0]] == label]
        shares = {"validation": validation_share} | ({} if test is not None else {"test": test_share})
        for side, chosen in _parted(own, shares, images, seed).items():
            rows[side] += chosen
    parts = {side: images.subset(np.sort(np.array(rows[side], np.int64))) for side in SIDES}
    split = Split(parts["train"], parts["validation"], parts["test"] if test is None else test, found)
    _check_enough(split, images, found["in_test"])
    return split


def _check_labels(images):
    if len(images.class_names) < 2:
        raise ValueError(
            f"The study needs labelled images of two classes or more: one folder a class. Received: "
            f"{'one class, ' + images.class_names[0] if images.class_names else 'no labels'}. Sort the images into such "
            "folders, or see --label-depth."
        )
    if TOP in images.class_names:
        beside = int(np.sum(images.labels == images.class_names.index(TOP)))
        raise ValueError(
            f"{beside} images lie beside the class folders and so have no label. Move them into folders, or name the "
            "classes to keep (--classes)."
        )
    for name in images.class_names:
        if "/" in name or os.sep in name or name.startswith("."):
            raise ValueError(
                f"The class {name!r} cannot be the name of a folder. Rename it, or leave it out (--classes)."
            )


def _check_same_classes(images, test):
    only = sorted(set(images.class_names) ^ set(test.class_names))
    if only:
        where = ", ".join(f"{name} ({'--data' if name in images.class_names else '--test-data'})" for name in only)
        raise ValueError(
            f"--data and --test-data must have the same classes. In only one of them: {where}. Rename folders, or name "
            "the classes to keep (--classes)."
        )
    if test.class_names != images.class_names:
        raise ValueError("--data and --test-data must list their classes in the same order. Give both as folders.")


def _groups(images):
    """Returns `{digest of the pixels: rows of the images that have it}`."""
    groups = {}
    for row, digest in enumerate(digests(images.images)):
        groups.setdefault(digest, []).append(row)
    return groups


def _parted(groups, shares, images, seed):
    """Deals the groups of a class out to the sides, in a drawn order: returns `{side: rows}`."""
    total = sum(map(len, groups))
    quotas = {side: max(LEAST[side], round(share * total)) for side, share in shares.items()}
    keys = np.array([images.content_hashes[group].min() for group in groups], np.uint64)
    rows = {side: [] for side in SIDES}
    for place in np.argsort(uniform(seed, _STREAM, keys), kind="stable") if groups else ():
        group = groups[place]
        room = (side for side, quota in quotas.items() if len(rows[side]) + len(group) <= quota)
        rows[next(room, "train")] += group
    return rows


def _check_enough(split, images, left_out):
    counts = split.counts()
    for label, name in enumerate(split.class_names):
        for side in SIDES:
            if counts[side][label] < LEAST[side]:
                have = int(np.sum(images.labels == label))
                why = f" ({left_out} images of --data are in --test-data and were left out)" if left_out else ""
                raise ValueError(
                    f"The class {name!r} has {have} images{why}, too few for the split: at least {LEAST['train']} "
                    f"different ones to train, 1 to validate and 1 to test. Its {side} side would have "
                    f"{counts[side][label]}. Add images, leave the class out (--classes), or give --test-data."
                )


def write_train_folder(split, folder):
    """Returns `folder` as an `ImageSet`, in which the train images lie as PNG, a folder a class, for `training.fit`.

    It is written beside and renamed; one that is there is checked against the split.

    Raises:
        ValueError: If the folder holds anything else.
    """
    folder = Path(folder)
    if not folder.exists():
        for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            for row, (label, name) in enumerate(zip(split.train.labels, _file_names(split), strict=True)):
                path = temporary / split.class_names[label] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = split.train.images[row]
                Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, "PNG")
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    height, width, channels = split.image_shape
    written = data.load(folder, size=(height, width), channels=channels, progress=False)
    if _contents(written) != _contents(split.train):
        raise ValueError(
            f"{folder} does not hold the train images of this split: the data, the seed or the shares of the split were "
            "others when it was written, or files in it were changed. Give another --out, or the same options as before."
        )
    return written


def _file_names(split):
    seen = [0] * len(split.class_names)
    for label in split.train.labels:
        yield f"{seen[label]:06d}.png"
        seen[label] += 1


def _contents(images):
    return sorted((images.class_names[label], digest) for label, digest in zip(images.labels, digests(images.images)))
