"""A slow plain twin of every numerical kernel, with which the fast one is compared."""

import copy
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor, nn


def top_k(values: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
    """Return the k largest (image, value) of each column of [images, neurons]; ties by image."""
    found = []
    for column in values.T:
        order = sorted(range(len(column)), key=lambda image: (-column[image], image))
        found.append([(image, float(column[image])) for image in order[:k]])
    return found


def skip_gram_objective(vectors: Tensor, pair: tuple[int, int], negatives: np.ndarray) -> Tensor:
    """Return log s(v_n.v_m) + sum_r log s(-v_n.v_r) + sum_r log s(-v_m.v_r) of one pair."""
    n, m = pair
    total = torch.nn.functional.logsigmoid(vectors[n] @ vectors[m])
    for side, item in enumerate(pair):
        for r in negatives[side]:
            total = total + torch.nn.functional.logsigmoid(-(vectors[item] @ vectors[int(r)]))
    return total


def consecutive_pairs(groups: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return the consecutive items of each shuffled group of [groups, items], in random order."""
    draws = iter(rng.random(int(groups.sum())))
    pairs = []
    for group in groups:
        drawn = sorted((next(draws), int(item)) for item in np.flatnonzero(group))
        shuffled = [item for _, item in drawn]
        pairs += list(pairwise(shuffled))
    return [pairs[place] for place in rng.permutation(len(pairs))]


def published_step(
    vectors: np.ndarray, pair: tuple[int, int], negatives: np.ndarray, rate: float
) -> np.ndarray:
    """Return the vectors after the published update of one pair; the negatives do not change."""

    def logistic(x: float) -> float:
        return 1.0 / (1.0 + np.exp(-x))

    n, m = pair
    moves = []
    for side, (own, partner) in enumerate(((n, m), (m, n))):
        move = (1 - logistic(vectors[own] @ vectors[partner])) * vectors[partner]
        for r in negatives[side]:
            move = move - logistic(vectors[own] @ vectors[int(r)]) * vectors[int(r)]
        moves.append(move)
    moved = vectors.copy()
    moved[n] += rate * moves[0]
    moved[m] += rate * moves[1]
    return moved


def image_vectors(incidence: np.ndarray, neuron_vectors: np.ndarray) -> np.ndarray:
    """Return the minimum-norm least-squares solution by a dense pseudo-inverse."""
    means = incidence / incidence.sum(axis=1, keepdims=True)
    return np.linalg.pinv(means) @ neuron_vectors


def ppmi(incidence: np.ndarray) -> np.ndarray:
    """Return max(0, log p(n, m) / (p(n) p(m))) of co-activation, cell by cell."""
    count = len(incidence)
    together = np.array(
        [
            [0.0 if n == m else float((incidence[n] * incidence[m]).sum()) for m in range(count)]
            for n in range(count)
        ]
    )
    total = together.sum()
    result = np.zeros_like(together)
    for n in range(count):
        for m in range(count):
            if together[n, m] > 0:
                joint = together[n, m] / total
                apart = together[n].sum() / total * together[:, m].sum() / total
                result[n, m] = max(0.0, np.log(joint / apart))
    return result


def jaccard(first: set[int], second: set[int]) -> float:
    union = first | second
    return len(first & second) / len(union) if union else 0.0


def nearest(similarity: np.ndarray, own: list[int], k: int) -> list[list[int]]:
    """Return each row's k most similar columns, without NaN and its own; ties by column."""
    return [
        sorted(
            (c for c in range(len(row)) if c != itself and not np.isnan(row[c])),
            key=lambda c: (-row[c], c),
        )[:k]
        for row, itself in zip(similarity, own, strict=True)
    ]


def rank_profile(activations: np.ndarray, head: float, order: float) -> np.ndarray:
    """Return one neuron's profile over the images; the rank of every image is counted."""
    count = len(activations)
    strongest, scores = [], []
    for value in activations:
        below = sum(other < value for other in activations)
        level = sum(other == value for other in activations)
        place = (below + level / 2) / count
        strongest.append(np.exp(-(1 - place) / head))
        scores.append(NormalDist().inv_cdf(place))
    parts = [np.array(part) / np.linalg.norm(part) for part in (strongest, scores)]
    profile = (1 - order) * parts[0] + order * parts[1]
    return profile / np.linalg.norm(profile)


def profile_similarity(
    activations: np.ndarray, base: list[int], dimension: int, head: float, order: float
) -> np.ndarray:
    """Return the cosines of all neurons in the space of rank profiles, by the base's covariance."""
    profiles = np.stack([rank_profile(row, head, order) for row in activations])
    profiles = profiles - profiles[base].mean(axis=0)
    units = profiles[base] / np.linalg.norm(profiles[base], axis=1, keepdims=True)
    values, axes = np.linalg.eigh(units.T @ units)
    kept = [i for i in np.argsort(-values)[:dimension] if values[i] > 1e-10 * values.max()]
    vectors = np.stack([profiles @ axes[:, i] / values[i] ** (1 / 6) for i in kept], axis=1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def output_of(model: nn.Module, name: str, image: Tensor) -> Tensor:
    """Return the output of a module, copied by a hook."""
    caught: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: caught.append(output.clone())
    )
    with torch.no_grad():
        model(image)
    handle.remove()
    return caught[0]


def gradient_of(model: nn.Module, name: str, image: Tensor, output: int) -> Tensor:
    """Return d logit / d module output of one image, by one forward and one backward pass."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    caught: list[Tensor] = []

    def keep(module, inputs, value):
        value = value.detach().requires_grad_()
        caught.append(value)
        return value.clone()

    handle = model.get_submodule(name).register_forward_hook(keep)
    logit = model(image)[0, output]
    handle.remove()
    (gradient,) = torch.autograd.grad(logit, caught[0])
    return gradient


def sensitivity(
    older: nn.Module, newer: nn.Module, name: str, image: Tensor, output: int, channel_axis: int
) -> np.ndarray:
    """Return the paper's s[x, n] of one image: gradient at t times change, summed over space."""
    gradient = gradient_of(older, name, image, output)
    change = output_of(newer, name, image) - output_of(older, name, image)
    product = (gradient * change).movedim(channel_axis, 1)
    return product.flatten(2).sum(dim=2)[0].numpy() if product.dim() > 2 else product[0].numpy()


def reverted_logits(
    older: nn.Module,
    newer: nn.Module,
    sets: dict[str, list[int]],
    images: Tensor,
    channel_axis: dict[str, int],
) -> Tensor:
    """Return the newer model's logits with channels copied from the older one, in a full pass."""
    copies = {name: output_of(older, name, images) for name in sets}
    handles = []
    for name, channels in sets.items():

        def revert(module, inputs, output, name=name, channels=channels):
            changed = output.clone()
            for channel in channels:
                index = [slice(None)] * output.dim()
                index[channel_axis[name]] = channel
                changed[tuple(index)] = copies[name][tuple(index)]
            return changed

        handles.append(newer.get_submodule(name).register_forward_hook(revert))
    with torch.no_grad():
        logits = newer(images)
    for handle in handles:
        handle.remove()
    return logits


def overlaps(activations: np.ndarray, covered: np.ndarray, share: float) -> np.ndarray:
    """Return Network Dissection's intersection over union, by neuron and concept."""
    cells, neurons = activations.shape
    kept = max(1, round(share * cells))
    result = np.zeros((neurons, covered.shape[1]))
    for n in range(neurons):
        column = activations[:, n]
        threshold = np.sort(column)[-kept]
        active = (column >= threshold) & (column > column.min())
        for c in range(covered.shape[1]):
            shared = covered[active, c].sum()
            union = active.sum() + covered[:, c].sum() - shared
            result[n, c] = shared / union if union > 0 else 0.0
    return result


def share_of_neighbours(
    similarity: np.ndarray, own: list[str], others: list[str], same: np.ndarray, k: int
) -> list[float]:
    """Return the share of each query's k most similar others that have its own concept."""
    shares = []
    for row, concept in enumerate(own):
        order = sorted(
            (index for index in range(len(others)) if not same[row, index]),
            key=lambda index: (-similarity[row, index], index),
        )[:k]
        shares.append(sum(others[index] == concept for index in order) / len(order))
    return shares


def ablated_logits(
    newer: nn.Module,
    sets: dict[str, list[int]],
    images: Tensor,
    channel_axis: dict[str, int],
    replacement: dict[str, Tensor],
) -> Tensor:
    """Return logits of a full pass with channels overwritten, one by one, by other maps."""
    handles = []
    for name, channels in sets.items():

        def overwrite(module, inputs, output, name=name, channels=channels):
            changed = output.clone()
            for channel in channels:
                index = [slice(None)] * output.dim()
                index[channel_axis[name]] = channel
                changed[tuple(index)] = replacement[name][tuple(index)]
            return changed

        handles.append(newer.get_submodule(name).register_forward_hook(overwrite))
    with torch.no_grad():
        logits = newer(images)
    for handle in handles:
        handle.remove()
    return logits


def split_half(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's correlation, from ranks counted one by one."""

    def rank(values: np.ndarray) -> np.ndarray:
        return np.array(
            [(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values], dtype=float
        )

    a, b = rank(first), rank(second)
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def undoing(
    older: nn.Module,
    newer: nn.Module,
    masks: dict[str, Tensor],
    image: Tensor,
    output: int,
    channel_axis: dict[str, int],
) -> dict[str, Tensor]:
    """Return the fall of one image's log(p / (1 - p)) per entry of the masks, by hooks."""
    newer = copy.deepcopy(newer).eval()
    for module in newer.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    leaves = {name: mask.clone().float().requires_grad_() for name, mask in masks.items()}
    for name, leaf in leaves.items():
        old = output_of(older, name, image)

        def mix(module, inputs, value, name=name, leaf=leaf, old=old):
            shape = [1] * value.dim()
            shape[channel_axis[name]] = len(leaf)
            return value + leaf.reshape(shape) * (old - value)

        newer.get_submodule(name).register_forward_hook(mix)
    probability = newer(image).double().softmax(dim=1)[0, output]
    (torch.log(probability) - torch.log1p(-probability)).backward()
    return {name: -leaf.grad for name, leaf in leaves.items()}


def attribute_overlap(activations: np.ndarray, has: np.ndarray) -> float:
    """Return the overlap of one neuron's strongest images and those with the attribute, between
    that of as many random images (0) and the largest one (1); tied images are taken in part."""
    count, images = int(has.sum()), len(has)
    shared = 0.0
    for value in activations[has]:
        larger, tied = int((activations > value).sum()), int((activations == value).sum())
        shared += min(max(count - larger, 0), tied) / tied
    overlap = shared / (2 * count - shared)
    by_chance = (count * count / images) / (2 * count - count * count / images)
    return (overlap - by_chance) / (1 - by_chance)


def objective(name: str, output: Tensor, label: int, prototypes: Tensor | None = None) -> Tensor:
    """Return the objective of one image's output [width], written as it is defined."""
    if prototypes is not None:
        own = prototypes[label]
        return (output * own).sum() / (output.square().sum().sqrt() * own.square().sum().sqrt())
    if name == "logit":
        return output[label]
    probability = output.double().exp()[label] / output.double().exp().sum()
    return (
        probability.log() if name == "log_probability" else (probability / (1 - probability)).log()
    )


def prototype(outputs: Tensor) -> Tensor:
    """Return the unit-length mean of a class's unit-length outputs [images, width]."""
    total = sum((row.double() / row.double().square().sum().sqrt() for row in outputs), 0.0)
    assert isinstance(total, Tensor)
    return (total / total.square().sum().sqrt()).float()


def euclidean(first: np.ndarray, second: np.ndarray) -> float:
    """Return the distance of two vectors, computed number by number."""
    return sum((float(a) - float(b)) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5
