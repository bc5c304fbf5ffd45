"""Architectures by name: three small networks, torchvision's models, the user's functions."""

import copy
import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor, nn

from harness.registry import Registry, call_user_code
from harness.torchvision_import import call_with_torchvision

logger = logging.getLogger(__name__)

#: name -> function(num_classes) -> module with random weights
ARCHITECTURES: Registry[Callable[[int], nn.Module]] = Registry("architecture")

#: Usual names of the parameter of an architecture that takes the number of classes.
CLASS_PARAMETERS = ("num_classes", "n_classes", "nb_classes", "num_labels", "classes")


def build(name: str, num_classes: int, seed: int | None = None) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: one of ARCHITECTURES, a model of torchvision, or 'package.module:function'.
        seed: of the weights; None: torch's present state. The caller's state is not changed.

    Raises:
        ValueError: the name is unknown (the message lists ARCHITECTURES), or the user's function
            fails or does not return a network.
    """
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        if name in ARCHITECTURES or ":" in name:
            make = ARCHITECTURES.get(name)
            model = call_user_code(f"architecture {name!r}", _bind(make, num_classes))
            if not isinstance(model, nn.Module):
                raise ValueError(
                    f"architecture {name!r} returned {type(model).__name__}; it is called with the "
                    f"number of classes, and must return a torch.nn.Module"
                )
            return model
        models = call_with_torchvision(import_module, "torchvision.models")
        if name not in models.list_models():
            raise ValueError(
                f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}, any name of "
                f"torchvision.models.list_models(), or your own as 'package.module:function'"
            )
        settings: dict[str, Any] = {"weights": None, "num_classes": num_classes}
        if name in ("inception_v3", "googlenet"):
            settings["init_weights"] = True
        if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
            settings["weights_backbone"] = None  # which it would download
        make = partial(models.get_model, name, **settings)
        return call_user_code(f"architecture {name!r} of torchvision", make)


def _bind(make: Callable[..., nn.Module], num_classes: int) -> Callable[[], nn.Module]:
    """Bind the number of classes to the parameter of a function or class that takes it, if any.

    This is the parameter with a usual name, which torchvision and timm have among `**kwargs`; or
    else the first one, unless its default shows that it is another, as `pretrained=False` does.
    """
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return partial(make, num_classes)
    for name in CLASS_PARAMETERS:
        if name in parameters and parameters[name].kind != Parameter.POSITIONAL_ONLY:
            return partial(make, **{name: num_classes})
    first = next(iter(parameters.values()), None)
    by_name = (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)
    # without a default, it is the class Parameter.empty
    if first and first.kind not in by_name and type(first.default) in (type, int):
        return partial(make, num_classes)
    if any(one.kind == Parameter.VAR_KEYWORD for one in parameters.values()):
        return partial(make, num_classes=num_classes)
    return make


def takes_channels_last(model: nn.Module, images: Tensor) -> bool:
    """Return whether the model runs on channels-last maps; `view` after a convolution does not."""
    try:
        with torch.no_grad():
            trial = channels_last(copy.deepcopy(model).float())
            trial.eval()  # a user's train() may return nothing
            trial(images[:2].contiguous(memory_format=torch.channels_last))
    except (Exception, SystemExit) as error:  # other errors are reported when the network is run
        if "view" in str(error):
            logger.info("the network needs maps in the ordinary memory format (%s)", error)
            return False
    return True


def channels_last(model: nn.Module) -> nn.Module:
    """Convert weights to channels-last, in which a CPU's convolutions are 1.5 to 1.9 times faster.

    Weights without four dimensions (3-D convolutions) have no such format and stay as they are.
    """
    for value in [*model.parameters(), *model.buffers()]:
        if value.dim() == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return model


def _conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]


def _network(features: list[nn.Module], channels: int, num_classes: int) -> nn.Module:
    """Join features, global average pooling and a linear classifier."""
    head = [
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(channels, num_classes),
    ]
    parts = {"features": nn.Sequential(*features), "classifier": nn.Sequential(*head)}
    return nn.Sequential(OrderedDict(parts))


@ARCHITECTURES.add("small_vgg")
def small_vgg(num_classes: int) -> nn.Module:
    """Build six 3x3 convolutions, each with batch norm and ReLU, at strides 2 to 8 (for 64 px)."""
    layers: list[nn.Module] = [*_conv(3, 24, 2), nn.ReLU()]
    for inputs, outputs, pool in (
        (24, 32, True),
        (32, 32, False),
        (32, 64, True),
        (64, 64, False),
        (64, 96, False),
    ):
        layers += [*_conv(inputs, outputs), nn.ReLU()]
        if pool:
            layers.append(nn.MaxPool2d(2))
    return _network(layers, 96, num_classes)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to the (projected) input, then ReLU (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(inputs, outputs, stride), nn.ReLU(), *_conv(outputs, outputs)
        )
        fits = inputs == outputs and stride == 1
        self.skip = nn.Identity() if fits else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.skip(x))


@ARCHITECTURES.add("small_resnet")
def small_resnet(num_classes: int) -> nn.Module:
    """Build a stem and four residual blocks at strides 2, 4, 4, 8, 8 (for 64 px)."""
    stem = [*_conv(3, 24, 2), nn.ReLU()]
    widths, strides = (24, 32, 48, 64, 96), (2, 1, 2, 1)
    blocks = [
        ResidualBlock(inputs, outputs, stride)
        for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True)
    ]
    return _network([*stem, *blocks], 96, num_classes)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a channel-first map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """A block of ConvNeXt (Liu et al., 2022): 5x5 depthwise convolution, layer norm, widening
    linear layer, GELU, narrowing linear layer.

    The linear layers work channels-last, so the output of the GELU is a channels-last map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 2 * channels)
        self.gelu = nn.GELU()
        self.narrow = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(self.gelu(self.widen(y)))
        return x + y.permute(0, 3, 1, 2)


@ARCHITECTURES.add("small_convnext")
def small_convnext(num_classes: int) -> nn.Module:
    """Build a stem of two convolutions and three stages of ConvNeXt blocks (for 64 px).

    The original's stem, which cuts the image into 4x4 patches, loses accuracy at this size.
    """
    layers: list[nn.Module] = [*_conv(3, 24, 2), nn.GELU(), *_conv(24, 32, 2)]
    for width, following in ((32, 48), (48, 64), (64, None)):
        layers.append(ConvNeXtBlock(width))
        if following:
            layers += [ChannelNorm(width), nn.Conv2d(width, following, 2, 2)]
    layers.append(ChannelNorm(64))
    return _network(layers, 64, num_classes)
