"""What decides the order of a loader's data besides the global random state: generators of its own, and the epoch."""

from collections.abc import Iterator
from typing import Any

import torch

_PARTS = ("sampler", "batch_sampler", "dataset")


def own_generators(loader: Any) -> list[torch.Generator]:
    """Torch's generators in a loader, its samplers and its data set, each once, always in the same order."""
    generators = [getattr(part, "generator", None) for part in _parts(loader)]
    return list({id(own): own for own in generators if isinstance(own, torch.Generator)}.values())


def tell_epoch(loader: Any, epoch: int) -> None:
    """Tells a loader's parts which epoch begins, as ``DistributedSampler`` wants it: else all have the same order."""
    for part in _parts(loader):
        if callable(tell := getattr(part, "set_epoch", None)):
            tell(epoch)


def _parts(loader: Any) -> Iterator[Any]:
    """The loader, its samplers, the samplers inside of those, and its data set; each once."""
    waiting, seen = [loader], set[int]()
    while waiting:
        part = waiting.pop(0)
        if part is not None and id(part) not in seen:
            seen.add(id(part))
            waiting += [getattr(part, name, None) for name in _PARTS]
            yield part
