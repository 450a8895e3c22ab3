"""The builders of data sets that users download by hand, on tiny archives of the same layout."""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import data, datasets

REPOSITORY = Path(__file__).parents[2]
CARS = (
    "Acura_ILX_2013_28_16_110_15_4_70_55_179_39_FWD_5_4_4dr_aWg.jpg",
    "Acura_ILX_2016_27_17_200_24_4_70_55_181_25_FWD_5_4_4dr_EsR.jpg",
    "Aston Martin_DB11_2018_210_20_600_51_12_75_50_186_17_RWD_4_2_2dr_abc.jpg",
    "Ford_F_150_1999_20_16_110_15_4_70_55_179_39_RWD_3_2_Regular_xyz.jpg",
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of manual downloads, empty, of a data directory of the test's own."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    folder = tmp_path / "sets" / "downloads" / "manual"
    folder.mkdir(parents=True)
    return folder


def picture(number, kind="JPEG"):
    """The bytes of an image file that differs with its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def load(text, folder, **options):
    return data.load(text, size=16, cache_dir=folder.parents[2] / "cache", progress=False, **options)


def contents(images, files):
    """Returns {name: class} of loaded images, recognized by their pixels; `files` are {name: bytes}."""
    name_of = {data.decode(content, 16, 16).tobytes(): name for name, content in files.items()}
    classes = images.class_names or (None,)
    return {name_of[image.tobytes()]: classes[label] for image, label in zip(images.images, images.labels, strict=True)}


def write_files(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def indoor67(folder, top="Images/"):
    """Writes the archive and its lists; returns {CLASS/FILE: bytes} and its official splits."""
    names = [f"{room}/{room}_{i}.jpg" for room in ("bedroom", "bar", "dining_room") for i in range(4)]
    files = {name: picture(number) for number, name in enumerate(names)}
    with tarfile.open(folder / "indoorCVPR_09.tar", "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    splits = {
        "train": {name for name in names if name[-5] in "01"},
        "test": {name for name in names if name[-5] == "2"},
        "rest": {name for name in names if name[-5] == "3"},
    }
    (folder / "TrainImages.txt").write_text("\n".join(sorted(splits["train"])))
    (folder / "TestImages.txt").write_text("\r\n".join(sorted(splits["test"])) + "\r\n\n")
    return files, splits


def compcars(folder):
    names = [f"{model}/{model}a{i}.jpg" for model in (1, 2, 10) for i in range(3)]
    files = {name: picture(number) for number, name in enumerate(names)}
    write_files(folder / "sv_data" / "image", files)
    (folder / "sv_data" / "sv_make_model_name.mat").write_bytes(b"MATLAB")
    splits = {
        "train": {name for name in names if "a2" not in name},
        "test": {name for name in names if "a2" in name},
    }
    for split, chosen in splits.items():
        (folder / "sv_data" / f"{split}_surveillance.txt").write_text("\n".join(sorted(chosen)) + "\n")
    return files, splits


def test_indoor67_has_the_official_splits_and_the_files_as_they_are(folder):
    files, splits = indoor67(folder)
    for split, names in splits.items():
        found = contents(load(f"tfds:indoor67:{split}", folder), files)
        assert found == {name: name.partition("/")[0] for name in names}
    everything = load("tfds:indoor67:all", folder)
    assert everything.class_names == ("bar", "bedroom", "dining_room")
    assert set(contents(everything, files)) == set(files)
    assert contents(load("tfds:indoor67", folder), files).keys() == splits["train"]
    # The same bytes, so the same images for the split by content as from an unpacked copy.
    write_files(folder / "unpacked", files)
    assert set(everything.content_hashes) == set(load(folder / "unpacked", folder).content_hashes)


def test_an_archive_packed_with_its_folder_is_read_as_well(folder):
    files, splits = indoor67(folder, top="indoorCVPR_09/Images/")
    assert contents(load("tfds:indoor67:test", folder), files).keys() == splits["test"]


def test_one_class_can_be_prepared_alone_and_is_the_same_as_chosen_from_all(folder):
    files, _ = indoor67(folder)
    alone = load("tfds:indoor67/bedroom:all", folder)
    chosen = load("tfds:indoor67:all", folder, classes=("bedroom",))
    assert alone.class_names == chosen.class_names == ("bedroom",)
    assert (
        contents(alone, files) == contents(chosen, files) == {f"bedroom/bedroom_{i}.jpg": "bedroom" for i in range(4)}
    )


def test_compcars_surveillance_has_the_official_splits_and_its_models_in_the_order_of_their_numbers(folder):
    files, splits = compcars(folder)
    for split, names in splits.items():
        images = load(f"tfds:compcars_surveillance:{split}", folder)
        assert images.class_names == ("1", "2", "10")
        assert contents(images, files) == {name: name.partition("/")[0] for name in names}
    assert contents(load("tfds:compcars_surveillance/10:all", folder), files) == {
        f"10/10a{i}.jpg": "10" for i in range(3)
    }


def test_the_car_connection_takes_make_model_and_year_from_the_file_names(folder, capsys):
    files = {name: picture(number) for number, name in enumerate(CARS)}
    with zipfile.ZipFile(folder / "car_connection.zip", "w") as archive:
        for name, content in {**files, "unnamed.jpg": picture(99), "readme.txt": b"cars"}.items():
            archive.writestr(name, content)
    images = load("tfds:car_connection", folder)
    assert "1 files are left out, the first: unnamed.jpg: no MAKE_MODEL_YEAR_" in capsys.readouterr().err
    assert images.class_names == ("Acura", "Aston Martin", "Ford")
    assert contents(images, files) == {name: name.partition("_")[0] for name in CARS}
    examples = datasets.open_builder("car_connection").as_dataset(split="train").as_numpy_iterator()
    facts = {example["filename"].decode(): (example["model"], example["year"]) for example in examples}
    assert facts == dict(zip(CARS, [(b"ILX", 2013), (b"ILX", 2016), (b"DB11", 2018), (b"F_150", 1999)], strict=True))


def test_a_zip_of_other_pictures_is_no_car_connection(folder):
    with zipfile.ZipFile(folder / "car_connection.zip", "w") as archive:
        archive.writestr("holiday.jpg", picture(0))
    with pytest.raises(data.DataError, match="no usable image in .*picture-scraper"):
        load("tfds:car_connection", folder)


def test_the_paintings_are_a_folder_without_labels(folder):
    files = {"a.jpg": picture(0), "more/b.png": picture(1, "PNG"), "more/c.jpeg": picture(2)}
    write_files(folder / "paintings", {**files, "list.csv": b"a,b"})
    images = load("tfds:paintings", folder)
    assert images.class_names == () and set(contents(images, files)) == set(files)
    with pytest.raises(ValueError, match="no labels"):
        load("tfds:paintings/more", folder)


def test_a_damaged_image_is_the_loaders_to_report(folder):
    write_files(folder / "paintings", {"a.jpg": picture(0), "b.jpg": picture(1), "c.jpg": b"\xff\xd8\xff damaged"})
    images = load("tfds:paintings", folder)
    assert len(images) == 2 and len(images.skipped) == 1


@pytest.mark.parametrize("name", datasets.SETS)
def test_a_set_that_is_not_there_says_what_to_get_from_where_and_where_to_put_it(name, folder):
    wanted = datasets.SETS[name]
    with pytest.raises(data.DataError) as caught:
        data.check_source(f"tfds:{name}:all")
    message = str(caught.value)
    for text in (wanted.title, wanted.instructions, str(folder), *wanted.files, f"--data {wanted.folder}"):
        assert text in message
    folder.rmdir()
    with pytest.raises(data.DataError) as caught:
        data.check_source(f"tfds:{name}")
    assert str(caught.value) == message, "an empty folder and none at all are the same to the user"


def test_the_command_line_says_so_before_tensorflow_is_imported(folder):
    code = (
        "import atexit, sys; from training import fit;"
        "atexit.register(lambda: print('tensorflow' in sys.modules, 'tensorflow_datasets' in sys.modules));"
        "sys.exit(fit.main(['--data', 'tfds:indoor67/bedroom']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout.strip() == "False False", done.stderr
    assert "web.mit.edu/torralba" in done.stderr and str(folder) in done.stderr and "Traceback" not in done.stderr


def test_only_what_is_missing_is_asked_for(folder):
    indoor67(folder)
    (folder / "TestImages.txt").unlink()
    with pytest.raises(data.DataError, match=r"Not found in .*manual: TestImages\.txt\.\n"):
        data.check_source("tfds:indoor67")


def test_the_archive_of_compcars_is_the_users_to_unpack(folder):
    (folder / "sv_data.zip").write_bytes(b"PK\x05\x06 part of a split archive")
    with pytest.raises(data.DataError, match="has a password, so you must unpack it yourself"):
        data.check_source("tfds:compcars_surveillance")


def test_a_prepared_set_needs_its_archive_no_more(folder):
    files, splits = indoor67(folder)
    load("tfds:indoor67/bar", folder)
    for path in folder.iterdir():
        path.unlink()
    data.check_source("tfds:indoor67/bar:train")
    assert contents(load("tfds:indoor67/bar:train", folder), files).keys() < splits["train"]
    for text in ("tfds:indoor67", "tfds:indoor67/bedroom"):
        with pytest.raises(data.DataError, match="downloaded by hand"):
            data.check_source(text)


def test_what_a_prepared_set_does_not_have_is_named_with_what_it_has(folder):
    indoor67(folder)
    with pytest.raises(data.DataError, match="no class 'bedrom'. Did you mean 'bedroom'.*bar, bedroom, dining_room"):
        load("tfds:indoor67/bedrom", folder)
    with pytest.raises(data.DataError, match="no split 'tset'.*mean 'test'"):
        load("tfds:indoor67/bar:tset", folder)
    with pytest.raises(data.DataError, match="indoor67/bar:7.0.0' cannot be opened"):
        load("tfds:indoor67/bar:7.0.0", folder)


def test_a_slip_in_the_name_of_a_set_is_met_with_the_right_one(folder):
    with pytest.raises(data.DataError, match="knows no set 'indoor_67'.*Did you mean 'indoor67'"):
        load("tfds:indoor_67", folder)


def test_an_archive_that_was_cut_off_leaves_nothing_behind(folder):
    files, _ = indoor67(folder)
    whole = (folder / "indoorCVPR_09.tar").read_bytes()
    (folder / "indoorCVPR_09.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(data.DataError, match=r"indoorCVPR_09\.tar cannot be read .*Fetch it again"):
        load("tfds:indoor67", folder)
    (folder / "indoorCVPR_09.tar").write_bytes(b"<html>not found</html>")
    with pytest.raises(data.DataError, match=r"indoorCVPR_09\.tar cannot be read"):
        load("tfds:indoor67", folder)
    assert not list((folder.parents[1]).rglob("*tfrecord*"))
    (folder / "indoorCVPR_09.tar").write_bytes(whole)
    assert set(contents(load("tfds:indoor67:all", folder), files)) == set(files)


def test_listed_images_that_are_not_there_are_told(folder, capsys):
    files, splits = compcars(folder)
    lost = sorted(splits["test"])[0]
    (folder / "sv_data" / "image" / lost).unlink()
    images = load("tfds:compcars_surveillance:test", folder)
    assert contents(images, files).keys() == splits["test"] - {lost}
    assert f"1 files are left out, the first: {lost}: only in test_surveillance.txt" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["3/none.jpg\n4/none.jpg\n", "\n"])
def test_a_list_of_other_images_is_an_error(folder, content):
    compcars(folder)
    (folder / "sv_data" / "train_surveillance.txt").write_text(content)
    with pytest.raises(data.DataError, match=r"none of the \d images of .*train_surveillance\.txt.* is there"):
        load("tfds:compcars_surveillance", folder)


@pytest.mark.parametrize("name", datasets.SETS)
def test_tensorflow_datasets_knows_the_builders_by_their_names(name, folder):
    import tensorflow_datasets as tfds

    builder = datasets.open_builder(name)
    assert builder.name == name and builder.MANUAL_DOWNLOAD_INSTRUCTIONS == datasets.SETS[name].instructions
    assert Path(builder.data_dir).parent == folder.parents[1] / name
    with pytest.raises(AssertionError, match="Manual directory .* does not exist or is empty"):
        tfds.builder(name, data_dir=folder.parents[1]).download_and_prepare()


def test_a_recipe_finds_the_set_that_was_downloaded_for_it(folder, tmp_path, monkeypatch, capsys):
    from training import fit

    indoor67(folder)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    assert fit.main(["--recipe", "bedrooms-gan28", "--dry-run"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["num_images"] == 4 and record["class_names"] == ["bedroom"] and record["image_shape"] == [28, 28, 1]
