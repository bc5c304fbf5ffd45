"""Which layers are probed by default in networks of torchvision and timm: the table of
docs/networks.md.

python -m benchmarks.networks [NAME …]
"""

from __future__ import annotations

import logging
import sys

from torch import nn

from harness.images.sets import View
from harness.networks.architectures import build
from harness.networks.calls import expose_calls
from harness.networks.layers import find_layers
from harness.networks.vision import torchvision_models

#: torchvision's, one or two a family -> side of its input in pixels
TORCHVISION = {
    "alexnet": 224,
    "vgg16": 224,
    "vgg19_bn": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "resnet18": 224,
    "resnet50": 224,
    "resnext50_32x4d": 224,
    "wide_resnet50_2": 224,
    "densenet121": 224,
    "squeezenet1_1": 224,
    "shufflenet_v2_x1_0": 224,
    "mnasnet1_0": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_small": 224,
    "efficientnet_b0": 224,
    "regnet_y_400mf": 224,
    "convnext_tiny": 224,
    "vit_b_16": 224,
    "swin_t": 224,
    "maxvit_t": 224,
}

#: timm's
TIMM = {
    "vit_tiny_patch16_224": 224,
    "deit_tiny_distilled_patch16_224": 224,
    "vit_small_patch14_reg4_dinov2": 518,
    "eva02_tiny_patch14_224": 224,
    "beit_base_patch16_224": 224,
    "cait_xxs24_224": 224,
    "pit_ti_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "maxvit_tiny_tf_224": 224,
    "mixer_s32_224": 224,
    "gmlp_ti16_224": 224,
    "resmlp_12_224": 224,
    "poolformer_s12": 224,
    "levit_128s": 224,
    "mobilevit_xxs": 256,
    "convnext_atto": 224,
    "convmixer_768_32": 224,
    "regnetx_002": 224,
    "ghostnet_100": 224,
    "hrnet_w18_small": 224,
    "dla34": 224,
    "dpn68": 224,
    "repvgg_a0": 224,
    "resnest14d": 224,
    "nf_resnet26": 224,
    "xcit_nano_12_p16_224": 224,
}


def network(name: str, outputs: int) -> nn.Module:
    """A network of either library with random weights."""
    if name in TORCHVISION:
        return build(name, outputs, 0)
    torchvision_models()  # which timm imports, and which may need help to be imported
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, num_classes=outputs)


def row(name: str, side: int) -> str:
    """A network's row of the table."""
    layers = find_layers(expose_calls(network(name, 1000)), View(side, side))
    first, last = (
        f"`{layer.name}` {layer.channels} × {layer.height}²" for layer in (layers[0], layers[-1])
    )
    tokens = sum(layer.extra > 0 for layer in layers)
    units = sum(layer.channels for layer in layers)
    library = "torchvision" if name in TORCHVISION else "timm"
    return (
        f"| {library} | {name} | {side} | {len(layers)} | {units:,} | {tokens} | {first} | {last} |"
    )


def main() -> None:
    logging.getLogger("harness").setLevel(logging.ERROR)
    wanted = sys.argv[1:]
    print("| library | network | input | layers | units | with leading tokens | first | last |")
    print("|---|---|---|---|---|---|---|---|")
    for name, side in (TORCHVISION | TIMM).items():
        if not wanted or name in wanted:
            print(row(name, side), flush=True)


if __name__ == "__main__":
    main()
