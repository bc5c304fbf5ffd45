"""Which layers are maps of concepts, of those that put out a non-linearity's result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.networks.watching import Watched

#: Tokens that may stand before those of the image: class, distillation, registers.
EXTRA_TOKENS = 8
#: How often a network may merge patches two by two.
HALVINGS = 4

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Candidates:
    """The layers that could be probed.

    Attributes:
        names: of their modules.
        axes: which dimension of each counts the images.
        watched: a pass over two images.
        larger: module name -> shapes of output and input on tall images, as far as they are known.
    """

    names: Sequence[str]
    axes: Mapping[str, int | None]
    watched: Watched
    larger: Mapping[str, tuple[Shape | None, Shape | None]]

    def output(self, name: str) -> Tensor:
        value = self.watched.modules[name].output
        assert value is not None  # a non-linearity's result
        return value

    def shape(self, name: str) -> Shape:
        return tuple(self.output(name).shape)

    @property
    def any_placed(self) -> bool:
        """Whether some layer has a position in the image."""
        return any(_positions(self.shape(name)) > 1 for name in self.names)


def _positions(shape: Shape) -> int:
    """Of a map [batch, channels, ...], or [batch, ..., channels]; of tokens their number."""
    if len(shape) < 4:
        return shape[1] if len(shape) == 3 else 1
    return min(math.prod(shape[2:]), math.prod(shape[1:-1]))


def _mixes_images(layers: _Candidates, name: str) -> bool:
    """No batch dimension (windows), or the values are no real numbers."""
    sequence = layers.axes[name] == 1 and len(layers.shape(name)) == 3
    return not (layers.axes[name] == 0 or sequence) or not layers.output(name).is_floating_point()


def _placeless(layers: _Candidates, name: str) -> bool:
    """Fully connected, or one position however large the image is (squeeze-and-excitation), where
    other layers have a position in the image. The paper probes convolutions."""
    if not layers.any_placed or _positions(layers.shape(name)) > 1:
        return False
    larger = layers.larger.get(name, (None, None))[0] or layers.shape(name)
    return _positions(larger) == 1


def _copied(layers: _Candidates, name: str) -> bool:
    """Earlier outputs that are concatenated are no new neurons (DenseNet)."""
    return layers.watched.modules[name].joined


def _mixes_tokens(layers: _Candidates, name: str) -> bool:
    """Where the image is cut into patches, layers whose tokens are not patches mix tokens
    (MLP-Mixer): their "positions" are channels."""
    shape = layers.shape(name)
    if len(shape) != 3 or token_grid(shape[0 if layers.axes[name] == 1 else 1], layers.watched):
        return False
    seen = [s.output for s in layers.watched.modules.values() if s.output is not None]
    tokens = [o for o in seen if o.dim() == 3]
    return any(token_grid(n, layers.watched) for o in tokens for n in o.shape[:2])


def _windows(layers: _Candidates, name: str) -> bool:
    """A map that was cut into windows (MaxViT): its rows are windows, its columns places within."""
    shape = layers.shape(name)
    if len(shape) != 4 or shape[2] == shape[3] or shape[1] == shape[2]:
        return False
    return not {shape[2:], shape[1:3]} & _grids(layers.watched)


def _class_scores(layers: _Candidates, name: str) -> bool:
    """Its mean over the image is the network's answer (SqueezeNet): it holds the outputs."""
    answer, output = layers.watched.answer, layers.output(name)
    if not isinstance(answer, Tensor) or output.dim() != 4 or answer.dim() != 2:
        return False
    pooled = output.mean(dim=(2, 3))
    return pooled.shape == answer.shape and torch.allclose(pooled, answer, rtol=1e-3, atol=1e-5)


#: Why a layer is left out by default, in the order of asking.
RULES: dict[str, Callable[[_Candidates, str], bool]] = {
    "no batch dimension": _mixes_images,
    "no position in the image": _placeless,
    "a concatenation of earlier outputs": _copied,
    "mixes tokens": _mixes_tokens,
    "cut into windows": _windows,
    "class scores": _class_scores,
}


def concept_maps(
    names: Sequence[str],
    axes: Mapping[str, int | None],
    watched: Watched,
    larger: Mapping[str, tuple[Shape | None, Shape | None]],
) -> tuple[list[str], dict[str, list[str]]]:
    """Those of the layers that are maps of concepts, and why the others are not (RULES).

    Args:
        names: modules that put out a non-linearity's result.
        axes: which dimension of each counts the images; None where there is none.
        watched: a pass over two images.
        larger: module name -> shapes of output and input on tall images, as far as they are known.
    """
    layers = _Candidates(names, axes, watched, larger)
    kept: list[str] = []
    left: dict[str, list[str]] = {}
    for name in names:
        why = next((text for text, rule in RULES.items() if rule(layers, name)), None)
        if why is None:
            kept.append(name)
        else:
            left.setdefault(why, []).append(name)
    return kept, left


def _grids(watched: Watched) -> set[Shape]:
    """Height and width of what convolutions and poolings put out."""
    outputs = [s.output for s in watched.modules.values() if s.layout is False]
    return {tuple(o.shape[2:]) for o in outputs if o is not None and o.dim() == 4}


def token_grid(count: int, watched: Watched) -> tuple[int, int, int] | None:
    """Of a number of tokens: height, width, how many before them have no place; None where they are
    no patches.

    Tokens are the positions of a map that a convolution has cut the image into, or of such a map
    halved (Swin, LeViT), after at most EXTRA_TOKENS.
    """
    grids = {(int(h), int(w)) for h, w in _grids(watched)}
    for _ in range(HALVINGS):
        grids |= {(-(-h // 2), -(-w // 2)) for h, w in grids}
    fitting = [(count - h * w, h, w) for h, w in grids if 0 <= count - h * w <= EXTRA_TOKENS]
    # a map of one or two rows is no map that tokens come from, but what a network ends in
    fitting = [one for one in fitting if min(one[1:]) > 2]
    if not fitting:
        return None
    extra, height, width = min(fitting)
    return height, width, extra
