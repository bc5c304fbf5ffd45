"""Images as the normalised batches that networks take."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.images.sets import ImageSet
from harness.images.view import View

#: How reading processes are started: forked on Linux, since a new interpreter takes seconds to load
#: torch; elsewhere as the platform requires.
START = "fork" if sys.platform == "linux" else None
_readers: ContextVar[int] = ContextVar("readers", default=0)


@contextmanager
def use_readers(processes: int) -> Iterator[None]:
    """Read and decode images in this many additional processes, or in one thread for 0 and 1."""
    token = _readers.set(processes)
    try:
        yield
    finally:
        _readers.reset(token)


class _Pieces(Dataset):
    """Reads pieces by position; an error is returned as an object, so that its type is kept."""

    def __init__(self, read: Callable[[np.ndarray], Tensor], pieces: Sequence[np.ndarray]) -> None:
        self._read, self._pieces = read, pieces

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, position: int) -> Tensor | Exception:
        try:
            return self._read(self._pieces[position])
        except Exception as error:
            return error


def load_batch(images: ImageSet, image_ids: Sequence[int] | np.ndarray, view: View) -> Tensor:
    """Return images as float32 [batch, channels, height, width], normalised, in the view's format.

    A network for greyscale images gets the luminance (ITU-R 601-2), as Pillow's mode L.
    Channels-last makes convolutions on a CPU 1.5 to 1.9 times faster.
    """
    pixels = np.stack([images.pixels(int(index), view) for index in image_ids])
    if view.channels == 1:
        pixels = np.stack([np.asarray(Image.fromarray(p).convert("L")) for p in pixels])[..., None]
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 255
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (view.mean, view.std))
    layout = torch.channels_last if view.channels_last else torch.contiguous_format
    return ((batch - mean) / std).contiguous(memory_format=layout)


def random_images(view: View, count: int, stretch: float = 1) -> Tensor:
    """Return noise in [0, 1], always the same: [count, channels, `stretch` × height, width]."""
    height, width = view.size
    size = (count, view.channels, int(stretch * height), width)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def batches(
    images: ImageSet, image_ids: np.ndarray, view: View, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids, int64 [batch], and images, as `load_batch` returns them, while the next are read.

    Batches have nearly equal sizes, because a last batch of up to three images (on some processors,
    four) would be computed by other kernels, whose results differ in the last bits.
    """
    pieces = np.array_split(image_ids, max(1, -(-len(image_ids) // batch_size)))
    for piece, batch in read_ahead(partial(load_batch, images, view=view), pieces):
        yield torch.from_numpy(np.ascontiguousarray(piece, dtype=np.int64)), batch


def read_ahead(
    read: Callable[[np.ndarray], Tensor], pieces: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield (piece, data read for it), in order, while the next ones are read.

    One thread reads ahead, so that two pieces are in memory; or as many processes as `use_readers`
    says, with two pieces each.
    """
    if len(pieces) == 1:
        yield pieces[0], read(pieces[0])
        return
    if (processes := min(_readers.get(), len(pieces))) > 1:
        data = _Pieces(read, pieces)
        loader = DataLoader(data, None, num_workers=processes, multiprocessing_context=START)
        for piece, batch in zip(pieces, loader, strict=True):
            if isinstance(batch, Exception):
                raise batch
            yield piece, batch
        return
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = [reader.submit(read, piece) for piece in pieces[:1]]
        for position, piece in enumerate(pieces):
            batch = pending.pop().result()
            if position + 1 < len(pieces):
                pending.append(reader.submit(read, pieces[position + 1]))
            yield piece, batch
