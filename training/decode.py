"""One image file -> one uint8 array: every format, colour mode and orientation is dealt with here.

Resizing is Pillow's LANCZOS, which is antialiased (its support grows with the shrink factor). Alpha is composited
on white unless four channels are asked for. Colour profiles are not applied.
"""

import contextlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps, WebPImagePlugin  # noqa: F401 (Pillow loads some of its formats only on request)

FITS = ("crop", "squash", "pad")
CHANNELS = (1, 3, 4)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF")  # JPEG includes MPO, of some phones and cameras
MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MB of RGB
MAX_FILE_BYTES = 2**29
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_DRAFT_MARGIN = 3  # a JPEG may be decoded at 1/2, 1/4 or 1/8 if that leaves 3 times the size: not to be told apart


class DataError(ValueError):
    """Something about the data that the user can put right."""


@contextlib.contextmanager
def pillow_warnings():
    """Decompression bombs raise, and Pillow's remarks about odd metadata are not shown.

    Warning filters belong to the process, not to a thread: enter this once, around the threads that decode.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(content, height, width, channels=3, fit="crop"):
    """Decodes one file.

    Args:
        content: bytes, the whole file.
        height: rows of the result, in pixels.
        width: columns of the result, in pixels.
        channels: 1 (luma, ITU-R 601), 3 (RGB) or 4 (RGB and straight alpha; opaque images get alpha 255).
        fit: "crop" keeps the aspect ratio and cuts the longer side at both ends, "squash" stretches,
            "pad" keeps everything and fills with white (transparent white for four channels).

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        Exception: of many classes (Pillow's plugins raise whatever they meet), for a file that cannot be decoded.
    """
    if not content:
        raise DataError("the file is empty (0 bytes)")
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{image.width}x{image.height} pixels are over the limit of {MAX_PIXELS:,}")
        image.draft(None, (_DRAFT_MARGIN * max(height, width),) * 2)
        image.load()
        picture = _upright(_to_8_bits(image))
    picture = _to_rgb(picture, keep_alpha=channels == 4)
    picture = _resized(picture, height, width, fit).convert(_MODE_OF_CHANNELS[channels])
    return np.asarray(picture, np.uint8).reshape(height, width, channels)


def reason(error):
    """The text to list a file that failed with: one line, without the address of the buffer it was read from."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a JPEG, PNG, WebP, BMP or GIF image"
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return f"decompression bomb: over the limit of {MAX_PIXELS:,} pixels"
    text = " ".join(str(error).split()) or "could not be decoded"
    return text if isinstance(error, (DataError, OSError)) else f"{type(error).__name__}: {text}"


def _to_8_bits(image):
    """16-bit gray as 8-bit gray (Pillow's own conversion clips at 255); other images unchanged."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    gray = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    exif = image.getexif()
    if exif:
        gray.info["exif"] = exif.tobytes()
    return gray


def _upright(image):
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken metadata (struct.error, SyntaxError, ...) is no reason to lose sound pixels
        return image


def _to_rgb(image, keep_alpha):
    if image.mode not in _ALPHA_MODES and "transparency" not in image.info:
        return image.convert("RGBA" if keep_alpha else "RGB")
    image = image.convert("RGBA")
    if keep_alpha:
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _resized(image, height, width, fit):
    """RGB or RGBA image -> the same mode, `width` x `height`. Pillow resizes RGBA with premultiplied alpha."""
    lanczos = Image.Resampling.LANCZOS
    if fit == "squash":
        return image.resize((width, height), lanczos)
    scales = width / image.width, height / image.height
    if fit == "crop":
        box_width, box_height = width / max(scales), height / max(scales)
        left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
        # rounding may leave the box 1e-14 outside the image, which Pillow refuses
        box = (max(left, 0), max(top, 0), min(left + box_width, image.width), min(top + box_height, image.height))
        return image.resize((width, height), lanczos, box=box)
    scale = min(scales)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new(image.mode, (width, height), (255, 255, 255, 0)[: len(image.mode)])
    canvas.paste(image.resize(inner, lanczos), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas
