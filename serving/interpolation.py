"""The way from one image to another through a model's latent space, as an animation."""

import io

import numpy as np

FRAME_MILLISECONDS = 80
LEAST_SIDE = 256  # smaller images are enlarged by a whole factor, so that they can be seen


def slerp(first, second, fractions):
    """Spherical interpolation of latents (Shoemake 1985; of latents White 2016, arXiv 1609.04468).

    Between two points of a standard normal distribution it passes through points as likely as they are, which the
    straight line does not.

    Args:
        first, second: float `[d]`.
        fractions: float `[k]`, 0 for `first` to 1 for `second`.

    Returns:
        float64 `[k, d]`.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    fractions = np.asarray(fractions, np.float64)[:, None]
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    angle = np.arccos(np.clip(first @ second / lengths, -1, 1)) if lengths else 0.0
    if np.sin(angle) < 1e-6:  # the same direction, or opposite ones, between which no way is shorter than another
        return (1 - fractions) * first + fractions * second
    return (np.sin((1 - fractions) * angle) * first + np.sin(fractions * angle) * second) / np.sin(angle)


def animation(frames, file_format):
    """Returns frames as an endless animation.

    Args:
        frames: uint8 `[k, height, width, channels]`. Transparent pixels become white in a GIF.
        file_format: "gif" or "webp" (lossless).

    Returns:
        The bytes of the file.
    """
    from PIL import Image

    factor = max(1, LEAST_SIDE // max(frames.shape[1:3]))
    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
        if picture.mode == "RGBA" and file_format == "gif":
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        if picture.mode != "RGBA" or file_format == "gif":
            picture = picture.convert("RGB")
        size = (picture.width * factor, picture.height * factor)
        pictures.append(picture.resize(size, Image.Resampling.NEAREST))
    options = {"lossless": True} if file_format == "webp" else {}
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        file_format.upper(),
        save_all=True,
        append_images=pictures[1:],
        duration=FRAME_MILLISECONDS,
        loop=0,
        **options,
    )
    return buffer.getvalue()
