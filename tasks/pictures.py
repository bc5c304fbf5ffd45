"""Pictures as files that tell nothing: content-hash names, one size in bytes for all."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from tasks.files import content_name

QUALITY = 80
_SEGMENT = 4  # marker and length of a JPEG comment segment


def encode(picture: Image.Image) -> bytes:
    """JPEG bytes; the same picture always gives the same bytes."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def pad(data: bytes, size: int) -> bytes:
    """The same JPEG of exactly `size` bytes, filled up with comments after its first marker.

    Without it the size of a file would say how busy its picture is, and a picture that differs from
    five others could be told by its transfer alone.

    Raises:
        ValueError: `size` leaves no room for a segment.
    """
    missing = size - len(data)
    segments = []
    while missing:
        length = min(missing, 0xFFFF + 2)
        if 0 < missing - length < _SEGMENT:
            length -= _SEGMENT
        if length < _SEGMENT:
            raise ValueError(f"a picture of {len(data)} bytes cannot be padded to {size}")
        segments.append(b"\xff\xfe" + (length - 2).to_bytes(2, "big") + bytes(length - _SEGMENT))
        missing -= length
    return data[:2] + b"".join(segments) + data[2:]


def name_of(data: bytes) -> str:
    """File name: nothing but a hash of the content."""
    return content_name(data, ".jpg")


def equal_files(pictures: Sequence[Image.Image]) -> list[bytes]:
    """Every picture as a file, all of one size in bytes."""
    encoded = [encode(picture) for picture in pictures]
    size = max(map(len, encoded), default=0) + _SEGMENT
    return [pad(data, size) for data in encoded]
