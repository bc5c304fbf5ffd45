"""State dicts of Hugging Face's transformers, whose files may have other names than its networks.

Since version 5, transformers renames the weights of some networks, and joins or splits them, when
it writes and reads files.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def own_names(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict by the names of a network of transformers, converted by the library.

    Tensors that do not belong to the network keep their names; of those with another shape than the
    network's only the shape is kept. The state dict of any other network, or one that the library
    cannot convert (which is logged), is returned unchanged.
    """
    library: Any = sys.modules.get("transformers")  # a network of it has imported it
    if library is None or not isinstance(model, library.PreTrainedModel):
        return dict(state)
    if int(library.__version__.partition(".")[0]) < 5:  # whose files have the network's names
        return dict(state)
    options = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        with _quiet(library.utils.logging), torch.random.fork_rng(devices=[]):
            loaded, report = type(model).from_pretrained(
                None, config=model.config, state_dict=dict(state), **options
            )
    except Exception as error:  # a user's class may need more than a configuration
        logger.info("weights: transformers cannot convert them (%s)", str(error).partition("\n")[0])
        return dict(state)
    values = {n: t for n, t in loaded.state_dict().items() if n not in report["missing_keys"]}
    values |= {name: state.get(name, torch.empty(0)) for name in report["unexpected_keys"]}
    return values | {name: torch.empty(shape) for name, shape, _ in report["mismatched_keys"]}


@contextmanager
def _quiet(logs: Any) -> Iterator[None]:
    """Let transformers report neither progress nor what does not fit, which `fill` does."""
    level, shows_progress = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logs.CRITICAL)
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if shows_progress:
            logs.enable_progress_bar()
