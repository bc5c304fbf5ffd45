"""Which layers are probed by default in networks of torchvision: the table of docs/networks.md.

python -m benchmarks.networks
"""

from __future__ import annotations

import logging

from harness.images.sets import View
from harness.networks.architectures import build
from harness.networks.calls import expose_calls
from harness.networks.layers import find_layers

#: name -> side of its input in pixels
NETWORKS = {
    **dict.fromkeys(
        (
            *(
                "alexnet",
                "vgg16",
                "vgg19_bn",
                "googlenet",
                "resnet18",
                "resnet50",
                "resnext50_32x4d",
            ),
            *(
                "wide_resnet50_2",
                "densenet121",
                "squeezenet1_1",
                "shufflenet_v2_x1_0",
                "mnasnet1_0",
            ),
            *("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf"),
            *("convnext_tiny", "vit_b_16", "swin_t", "maxvit_t"),
        ),
        224,
    ),
    "inception_v3": 299,
}


def main() -> None:
    logging.getLogger("harness").setLevel(logging.ERROR)
    print("| network | input | layers | units | of tokens | first | last |")
    print("|---|---|---|---|---|---|---|")
    for name, side in NETWORKS.items():
        layers = find_layers(expose_calls(build(name, 1000, 0)), View(side, side))
        tokens = sum(layer.extra > 0 for layer in layers)
        units = sum(layer.channels for layer in layers)
        print(
            f"| {name} | {side} | {len(layers)} | {units:,} | {tokens} | `{layers[0].name}` "
            f"{layers[0].channels} × {layers[0].height}² | `{layers[-1].name}` "
            f"{layers[-1].channels} × {layers[-1].height}² |",
            flush=True,
        )


if __name__ == "__main__":
    main()
