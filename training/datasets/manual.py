"""What the builders of sets that a user downloads have in common: files as they are, official lists, one class alone."""

import io
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from training import datasets
from training.decode import DataError
from training.sources import kept_classes, open_source

# From the names of some pictures to (name, content of the file) of each, in any order.
Reader = Callable[[Collection[str]], Iterator[tuple[str, bytes]]]


class Picture(NamedTuple):
    """One image file: its path in the set, split, label (None where the set has none), and further features."""

    name: str
    split: str
    label: str | None
    facts: Mapping[str, Any] = {}


class ManualBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set of image files, kept byte for byte: decoding, and complaints about damaged files, are the loader's.

    A subclass lists its pictures. With a configuration, the set has only the class of that name. The features are `image`
    (uint8 `[height, width, 3]`), `filename` (its path in the set), and `label` where the set is `labelled`.
    """

    VERSION = tfds.core.Version("1.0.0")
    labelled = True
    further_features: Mapping[str, Any] = {}

    @property
    def title(self):
        """What the set is called."""
        return datasets.SETS[self.name].title

    def pictures(self, folder: Path) -> tuple[list[Picture], Reader]:
        """Returns the pictures of the set whose files lie in `folder`, and what reads them."""
        raise NotImplementedError

    def _info(self):
        features = {"image": tfds.features.Image(), "filename": tfds.features.Text(), **self.further_features}
        if self.labelled:
            features["label"] = tfds.features.ClassLabel()  # the names are found in the files
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir)
        datasets.check_files(self.name, folder)
        pictures, read = self.pictures(folder)
        if not pictures:
            raise DataError(f"{self.title}: no usable image in {folder}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        present = sorted({picture.label for picture in pictures} - {None}, key=_numbers_as_numbers)
        names, _ = kept_classes(present, [self.builder_config.name] if self.builder_config else (), self.title)
        if self.labelled:
            self.info.features["label"].names = names
            pictures = [picture for picture in pictures if picture.label in names]
        splits = {}
        for picture in pictures:
            splits.setdefault(picture.split, {})[picture.name] = picture
        return {split: self._generate_examples(chosen, read) for split, chosen in splits.items()}

    def _generate_examples(self, pictures, read):
        for name, content in read(pictures):
            example = {"image": io.BytesIO(content), "filename": name, **pictures[name].facts}
            yield name, example | ({"label": pictures[name].label} if self.labelled else {})


def _numbers_as_numbers(name):
    return (int(name), name) if name.isdecimal() else (0, name)


def listed_files(path, title):
    """Returns ({name: class, or None}, `Reader`) of the images in a folder or zip.

    Files that cannot be used are told on standard error.

    Raises:
        DataError: If there is no image.
    """
    source = open_source(path)
    report_left_out(title, [f"{name}: {reason}" for name, reason in source.skipped])
    names = {name: source.class_names[label] if source.class_names else None for name, label, _ in source.entries()}
    return names, lambda names: ((name, source.read(name, None)) for name in names)


def official_splits(names, lists, title):
    """Returns {name: split}: that of the list which has the name, "rest" for those in none.

    Args:
        names: the images there are, as `CLASS/FILE`.
        lists: {split: path of its list, one name a line}.
        title: the set's, to tell of listed images that are not there.

    Raises:
        DataError: If no image of a list is there.
    """
    splits = dict.fromkeys(names, "rest")
    for split, path in lists.items():
        listed = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        absent = [name for name in listed if name not in splits]
        if len(absent) == len(listed):
            example = f" (the first: {absent[0]})" if absent else ""
            raise DataError(f"{title}: none of the {len(listed)} images of {path}{example} is there. Fetch both again.")
        report_left_out(title, [f"{name}: only in {path.name}" for name in absent])
        splits.update((name, split) for name in listed if name in splits)
    return splits


def report_left_out(title, lines):
    """Tells on standard error how many files are not used, and of the first."""
    if lines:
        print(f"{title}: {len(lines)} files are left out, the first: {lines[0]}", file=sys.stderr)
