"""Recognise files of other formats by their first bytes, for messages."""

from __future__ import annotations

#: Beginnings of files, in lower case, and descriptions of their formats.
KINDS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; `git lfs pull` gets it",
    b"<!doctype html": "a web page (HTML), not the file itself: the download went wrong",
    b"<html": "a web page (HTML), not the file itself: the download went wrong",
    b"\x93numpy": "a NumPy array",
    b"\x89hdf": "an HDF5 file (of Keras, perhaps)",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"7z\xbc\xaf": "compressed (7z); unpack it first",
    b"\xfd7zxz": "compressed (xz); unpack it first",
    b"bzh": "compressed (bzip2); unpack it first",
    b"gguf": "a GGUF file, whose weights are quantised; the original weights are needed",
    b"%pdf": "a PDF document",
    b"{": "JSON or other text",
}


def kind_of(head: bytes) -> str:
    """Describe the format of a file from its first bytes; "" if it is not among KINDS."""
    if not head:
        return "empty (0 bytes)"
    beginning = head.lstrip().lower()
    return next((what for start, what in KINDS.items() if beginning.startswith(start)), "")
