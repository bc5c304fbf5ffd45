"""Print the table of docs/networks.md: the default layers of networks of torchvision and timm.

python -m benchmarks.networks [NAME …]
"""

import logging
import sys
from importlib import import_module

from torch import nn

from harness.images.batches import random_images
from harness.images.view import View
from harness.networks.architectures import build
from harness.networks.calls import expose_calls
from harness.networks.layers import find_layers
from harness.torchvision_import import call_with_torchvision

#: One or two networks per family.
TORCHVISION = [
    "alexnet", "vgg16", "vgg19_bn", "googlenet", "inception_v3", "resnet18", "resnet50",
    "resnext50_32x4d", "wide_resnet50_2", "densenet121", "squeezenet1_1", "shufflenet_v2_x1_0",
    "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf",
    "convnext_tiny", "vit_b_16", "swin_t", "maxvit_t",
]  # fmt: skip
TIMM = [
    "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2",
    "eva02_tiny_patch14_224", "beit_base_patch16_224", "cait_xxs24_224", "pit_ti_224",
    "swin_tiny_patch4_window7_224", "maxvit_tiny_tf_224", "mixer_s32_224", "gmlp_ti16_224",
    "resmlp_12_224", "poolformer_s12", "levit_128s", "mobilevit_xxs", "convnext_atto",
    "convmixer_768_32", "regnetx_002", "ghostnet_100", "hrnet_w18_small", "dla34", "dpn68",
    "repvgg_a0", "resnest14d", "nf_resnet26", "xcit_nano_12_p16_224",
    "naflexvit_base_patch16_gap",
]  # fmt: skip
#: Sides of inputs in pixels; 224 for all others.
SIDES = {"inception_v3": 299, "vit_small_patch14_reg4_dinov2": 518, "mobilevit_xxs": 256}


def network(name: str, outputs: int) -> nn.Module:
    """Return a network of either library with random weights."""
    if name in TORCHVISION:
        return build(name, outputs, 0)
    call_with_torchvision(import_module, "torchvision")  # which timm imports
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, num_classes=outputs)


def row(name: str) -> str:
    """Return a network's row of the table."""
    side = SIDES.get(name, 224)
    view = View(side, side)
    layers = find_layers(expose_calls(network(name, 1000), random_images(view, 2)), view)
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
    print("| library | network | input | layers | units | with leading tokens | first | last |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or TORCHVISION + TIMM:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
