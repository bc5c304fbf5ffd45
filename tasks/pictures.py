"""Picture files that reveal nothing: names are hashes of the content, all sizes are equal."""

import io
from collections.abc import Sequence

from PIL import Image

QUALITY = 80
_SEGMENT = 4  # marker and length of a JPEG comment segment


def encode(picture: Image.Image) -> bytes:
    """Encode as JPEG; the same picture always gives the same bytes."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def pad(data: bytes, size: int) -> bytes:
    """Fill a JPEG with comments after its first marker, up to exactly `size` bytes.

    Otherwise the size of a file would reveal how detailed its picture is, and a picture that
    differs from five others could be found from the transfer alone.

    Raises:
        ValueError: `size` leaves no room for a segment.
    """
    padding = size - len(data)
    segments = []
    while padding:
        length = min(padding, 0xFFFF + 2)
        if 0 < padding - length < _SEGMENT:
            length -= _SEGMENT
        if length < _SEGMENT:
            raise ValueError(f"a picture of {len(data)} bytes cannot be padded to {size}")
        segments.append(b"\xff\xfe" + (length - 2).to_bytes(2, "big") + bytes(length - _SEGMENT))
        padding -= length
    return data[:2] + b"".join(segments) + data[2:]


def equal_files(pictures: Sequence[Image.Image]) -> list[bytes]:
    """Encode all pictures as files of one size in bytes."""
    files = [encode(picture) for picture in pictures]
    size = max(map(len, files), default=0) + _SEGMENT
    return [pad(data, size) for data in files]
