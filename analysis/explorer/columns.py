"""Encode columns of tables compactly in JSON: numbers as little-endian bytes in base 64."""

import base64
import json
from typing import Any

import numpy as np

#: Type in numpy -> name of the typed array in JavaScript.
TYPES = {
    "<f4": "Float32Array",
    "<i4": "Int32Array",
    "<i2": "Int16Array",
    "|u1": "Uint8Array",
}


def ints(values: Any) -> np.ndarray:
    """Convert integers to int16 or, if a value is too large for it, to int32.

    Raises:
        ValueError: a value needs more than 32 bits.
    """
    array = np.asarray(values, dtype=np.int64)
    for number_type in (np.int16, np.int32):
        limits = np.iinfo(number_type)
        if not array.size or (limits.min <= array.min() and array.max() <= limits.max):
            return array.astype(number_type)
    raise ValueError(f"a whole number needs more than 32 bits: {array.max()}")


def floats(values: Any) -> np.ndarray:
    """Convert real numbers to float32; missing values are NaN."""
    return np.asarray(values, dtype=np.float32)


def pack(value: Any) -> Any:
    """Replace every array in a value by {"type": typed array, "bytes": base 64}, and other NaN and
    infinite numbers by None.

    Raises:
        ValueError: an array has a type that is not in TYPES.
    """
    if isinstance(value, dict):
        return {str(key): pack(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(part) for part in value]
    if isinstance(value, np.ndarray):
        kind = value.dtype.newbyteorder("<").str
        if kind not in TYPES:
            raise ValueError(f"arrays of {value.dtype} cannot be packed; use ints() or floats()")
        data = np.ascontiguousarray(value, dtype=kind).tobytes()
        return {"type": TYPES[kind], "bytes": base64.b64encode(data).decode("ascii")}
    if isinstance(value, np.generic):
        return pack(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def as_json(value: Any) -> str:
    """Return a packed value as JSON that is safe in a <script> element: it contains no `<`."""
    text = json.dumps(pack(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
