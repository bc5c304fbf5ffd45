"""Check that a network's outputs and gradients are reliable enough to be studied."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.networks.execution import execution
from harness.networks.layer import Layer
from harness.networks.recording import borrow, record_maps
from harness.networks.running import INFERENCE, UNDEFINED, WithGradients, explain_errors, run_logits
from harness.text import join_names

logger = logging.getLogger(__name__)

#: Largest relative difference of outputs that can be due to other kernels at another batch size.
TOLERANCE = 1e-3


def check_passes(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the outputs, [batch, width], of at least two images, after checking that they are
    repeatable and do not depend on the other images of the batch.

    Raises:
        ValueError: the outputs differ; the message names the usual reason.
    """
    outputs, repeated = _outputs(model, batch), _outputs(model, batch)
    if not torch.equal(outputs, repeated) and not torch.isnan(outputs).any():
        raise ValueError(
            "two passes over the same images differ: in evaluation mode, dropout or another random "
            "operation is active, or the network changes its own state (such as the observers of "
            "quantisation-aware training), so results cannot be repeated; let this depend on "
            "`self.training`"
        )
    try:
        separate = torch.cat([_outputs(model, batch[:1]), _outputs(model, batch[1:])])
    except ValueError as error:
        raise ValueError(
            f"{error}; this was a batch of one image: `squeeze` also removes its dimension; use "
            f"`flatten(1)`, or name the dimension to remove"
        ) from error
    scale = outputs.abs().max()
    if separate.shape != outputs.shape or (separate - outputs).abs().max() > TOLERANCE * scale:
        stateless = [
            name
            for name, module in model.named_modules()
            if getattr(module, "track_running_stats", True) is False
            or getattr(module, "running_mean", 0) is None
        ]
        hint = f" (normalisation without running statistics: {', '.join(stateless[:4])})"
        raise ValueError(
            f"an image's output depends on the other images of its batch{hint * bool(stateless)}: "
            f"results would depend on how images are batched; use a normalisation that does not, "
            f"or track_running_stats=True"
        )
    return outputs


def _outputs(model: nn.Module, batch: Tensor) -> Tensor:
    with borrow(model), torch.no_grad():
        return run_logits(model, batch)


def check_gradients(model: nn.Module, layers: Sequence[Layer], batch: Tensor) -> Tensor:
    """Check that the gradient of the output reaches every layer on which the output depends.

    Returns:
        The outputs, [batch, width], with their graph (see `ends_in_sigmoid`).

    Raises:
        ValueError: the gradient does not reach a layer (detached values), or is NaN or infinite.
    """
    recording = record_maps(
        model, layers, lambda maps, _: maps, shares_memory=True, start_gradient=True
    )
    with borrow(model), torch.enable_grad(), WithGradients(), recording as kept:
        outputs = run_logits(model, batch, "to see whether it has gradients")
        maps = [kept[layer.name] for layer in layers]
        gradients: Sequence[Tensor | None] = [None] * len(layers)
        if outputs.requires_grad:
            with explain_errors(model, batch, "to see whether it has gradients"):
                gradients = torch.autograd.grad(outputs.sum(), maps, allow_unused=True)
    if outputs.is_inference():
        raise ValueError(INFERENCE)
    reference = _outputs(model, batch)
    if (outputs.detach() - reference).abs().max() > TOLERANCE * reference.abs().max():
        raise ValueError(
            "its outputs with gradients differ from those without: importance would be measured on "
            "another network than the neurons; let nothing depend on torch.is_grad_enabled()"
        )
    pairs = list(zip(layers, gradients, strict=True))
    non_finite = [la.name for la, grad in pairs if grad is not None and not grad.isfinite().all()]
    if non_finite and outputs.isfinite().all():
        raise ValueError(
            f"the gradients of its outputs with respect to {', '.join(non_finite[:4])} are NaN or "
            f"infinite; {UNDEFINED}"
        )
    unreached = [layer for layer, grad in pairs if grad is None]
    if not unreached:
        return outputs
    with execution(model, unreached, traced=False) as running, torch.no_grad():
        unchanged = running.start(batch)
        detached = [
            layer.name
            for layer in unreached
            if not torch.equal(running.rerun({layer.name: lambda value: 2 * value + 1}), unchanged)
        ]
    if detached:
        raise ValueError(
            f"no gradient of the output reaches {', '.join(detached[:4])}, on which it depends: "
            f"later values are detached (.detach(), .data, numpy, comparisons such as x > 0, or "
            f"torch.utils.checkpoint with use_reentrant=True), so that importance cannot be "
            f"measured; remove this, or probe later layers only: layers = [...]"
        )
    logger.info(
        "the output does not depend on what %s returns: scores of its neurons are 0, and ablating "
        "them changes nothing",
        join_names([layer.name for layer in unreached], 4),
    )
    return outputs


#: Names in autograd of operations that do not change numbers.
_MOVES = (
    *("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "Copy", "Alias"),
    *("Transpose", "Permute", "T", "Slice", "Select", "Index", "Expand", "Contiguous"),
)


def ends_in_sigmoid(outputs: Tensor) -> bool:
    """Return whether a sigmoid computes the outputs, which then are separate probabilities."""
    node = outputs.grad_fn
    while node is not None and node.name().startswith(_MOVES):
        node = next((earlier for earlier, _ in node.next_functions if earlier is not None), None)
    return node is not None and node.name().startswith(("Sigmoid", "Hardsigmoid"))
