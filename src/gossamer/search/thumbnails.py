"""Samples as small PNG pictures, for people; written without an imaging library, since eight lines are enough."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

LARGEST = 64
"""Pixels along an edge; larger images are thinned out."""

_SMALLEST = 4


def thumbnails(images: np.ndarray) -> list[str] | None:
    """PNG data URIs of images (samples, channels, height, width), (samples, height, width, channels) or of one channel.

    All are scaled together, from the smallest value to black to the largest to white. ``None`` if the arrays are no
    images: channels are 1 or 3, edges 4 or longer.
    """
    pixels = _pixels(images)
    if pixels is None or not np.isfinite(pixels).all():
        return None
    step = max(1, -(-max(pixels.shape[1:3]) // LARGEST))
    pixels = pixels[:, ::step, ::step].astype(np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    scaled = np.rint((pixels - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    return ["data:image/png;base64," + base64.b64encode(png(one)).decode() for one in scaled]


def png(pixels: np.ndarray) -> bytes:
    """PNG file of pixels (height, width, 1 or 3), uint8."""
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _pixels(images: np.ndarray) -> np.ndarray | None:
    """Images with the channels last; ``None`` if they are none."""
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    fits = images.ndim == 4 and images.shape[-1] in (1, 3) and min(images.shape[1:3]) >= _SMALLEST
    return images if fits and images.dtype.kind in "uif" else None
