"""Parts of a network that are not outputs of a module, by name: `MODULE:PART`.

`blocks.3.attn:heads` are the heads of an attention, `blocks.3:residual` the residual stream after a
block, `blocks.3.mlp.fc2:input` the input of a module. A new part is one function in PARTS.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.networks.watching import ModuleRecord, Site
from harness.registry import Registry
from harness.text import join_names


class NoSuchPart(ValueError):
    """A module does not have the part; the message says why."""


#: Name -> function(module's name, module, records of all modules) -> site of the part.
PARTS: Registry[Callable[[str, nn.Module, Mapping[str, ModuleRecord]], Site]] = Registry(
    "part of a network"
)


@PARTS.add("input")
def module_input(name: str, module: nn.Module, records: Mapping[str, ModuleRecord]) -> Site:
    """Return the site of a module's input."""
    if name not in records or records[name].input is None:
        raise NoSuchPart("its first input is not a tensor")
    return Site(name, "input")


@PARTS.add("residual")
def residual(name: str, module: nn.Module, records: Mapping[str, ModuleRecord]) -> Site:
    """Return the site of a block's output, of its input's shape: the residual stream after it."""
    record = records.get(name)
    if record is None or record.output is None or record.input is None:
        raise NoSuchPart("its input or output is not a tensor")
    if record.output.shape != record.input.shape:
        raise NoSuchPart(
            f"it changes the shape from {tuple(record.input.shape)} to "
            f"{tuple(record.output.shape)}, which a residual block does not"
        )
    return Site(name)


#: Names in libraries for the number of heads, and for the projection of their joined outputs.
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")
_PROJECTIONS = ("proj", "out_proj", "o_proj", "c_proj", "to_out", "wo", "dense", "fc_out")


@PARTS.add("heads")
def heads(name: str, module: nn.Module, records: Mapping[str, ModuleRecord]) -> Site:
    """Return the site of an attention's heads: groups of input channels of the output projection.

    The activation of a head is the length of its vector.
    """
    count = next((n for a in _HEADS if isinstance(n := getattr(module, a, None), int)), None)
    if count is None:
        raise NoSuchPart(f"it has no number of heads ({', '.join(_HEADS)})")
    projection = next((p for p in _PROJECTIONS if hasattr(module, p)), None)
    if projection is None and hasattr(module, "all_head_size"):  # another module has the projection
        site = Site(name)
    elif projection is None:
        raise NoSuchPart(f"it has no output projection ({', '.join(_PROJECTIONS)})")
    else:
        site = Site(f"{name}.{projection}", "input")
    value = site.value(records[site.module]) if site.module in records else None
    if value is None:
        raise NoSuchPart(
            f"its output projection {site.module} is not run as a module: heads of an attention "
            f"that passes its weights to a function cannot be recorded"
        )
    if value.shape[-1] % count:
        raise NoSuchPart(f"{value.shape[-1]} channels cannot be divided evenly by {count} heads")
    return Site(site.module, site.side, value.shape[-1] // count)


def find_sites(
    pattern: str, model: nn.Module, records: Mapping[str, ModuleRecord]
) -> dict[str, Site]:
    """Return the sites of all parts that match `MODULE PATTERN:PART`, by name.

    Raises:
        ValueError: there is no such part, or no module has it; the reasons are listed.
    """
    modules, _, part = pattern.rpartition(":")
    if part not in tuple(PARTS):
        raise ValueError(f"layer {pattern!r}: the part must be one of {', '.join(PARTS)}")
    by_name = dict(model.named_modules())
    matches = [name for name in by_name if name and fnmatchcase(name, modules)]
    if not matches:
        raise ValueError(
            f"no module matches {modules!r} of {pattern!r}; there are "
            f"{join_names(filter(None, by_name), 12)}"
        )
    sites, reasons = {}, []
    for name in matches:
        try:
            sites[f"{name}:{part}"] = PARTS.get(part)(name, by_name[name], records)
        except NoSuchPart as reason:
            reasons.append(f"{name}: {reason}")
    if not sites:
        raise ValueError(f"layer {pattern!r}: no module has {part}: {'; '.join(reasons[:4])}")
    return sites


class OpenAttention(nn.Module):
    """`nn.MultiheadAttention` in evaluation mode, written out, with the same parameters.

    The input of its output projection can be recorded; outputs agree up to rounding.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.batch_first = attention.num_heads, attention.batch_first
        self.out_proj = attention.out_proj
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self._qkv_same_embed_dim = True  # the layers of torch.nn read it

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        if key_padding_mask is not None:
            raise ValueError("heads cannot be recorded if some tokens are padding")
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        weight, bias = self.in_proj_weight, self.in_proj_bias
        parts = weight.chunk(3), (None,) * 3 if bias is None else bias.chunk(3)
        q, k, v = (
            functional.linear(x, w, b).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), *parts, strict=True)
        )
        mask = attn_mask if attn_mask is None or attn_mask.dtype != torch.bool else ~attn_mask
        z = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        output = self.out_proj(z.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), None


def open_attention(model: nn.Module, patterns: tuple[str, ...] | None) -> nn.Module:
    """Replace `nn.MultiheadAttention` by `OpenAttention` where its heads are named.

    Raises:
        ValueError: the attention has key or value biases or other key dimensions (unsupported).
    """
    attentions = [p.rpartition(":")[0] for p in patterns or () if p.endswith(":heads")]
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.MultiheadAttention):
            continue
        if not any(fnmatchcase(name, pattern) for pattern in attentions):
            continue
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise ValueError(
                f"layer '{name}:heads': heads can be recorded only of self-attention without "
                f"bias_k and add_zero_attn, with keys and values of the queries' width"
            )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, OpenAttention(module).train(module.training))
    return model
