"""What a run needs of a data loader: its length, a first look, and what decides the order of its data.

The last is, besides the global random state, generators of its own, and the epoch.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from l0bayes.errors import DataError
from l0bayes.inference.system.random_state import random_state, set_random_state
from l0bayes.inputs import Inputs

_PARTS = ("sampler", "batch_sampler", "dataset")


def length(loader: Any) -> int | None:
    """How many batches an epoch has, if the loader knows."""
    try:
        return len(loader)
    except TypeError:  # a stream of data has none, whatever methods its loader has
        return None


def first_batch(loader: Iterable[Any]) -> Any:
    """The first batch, without changing the random state.

    Raises:
        DataError: if there is none.
    """
    own = own_generators(loader)
    state = random_state(own)
    batch = next(iter(loader), None)
    set_random_state(state, own)
    if batch is None:
        raise DataError("train_loader is empty; give it at least one batch")
    return batch


def arguments_of(batch: Any, loader: str = "train_loader") -> tuple[Any, ...]:
    """A batch as the arguments of a model: a mapping, of keyword inputs and targets, is one of them.

    Args:
        batch: what a loader gave.
        loader: the argument that it came in.

    Raises:
        DataError: if it is neither a tuple nor a mapping.
    """
    if isinstance(batch, Mapping):
        return (batch,)
    if not isinstance(batch, tuple | list):
        raise DataError(
            f"{loader} must give tuples of the model's arguments, or mappings; got a {type(batch).__name__}"
        )
    return tuple(batch)


def rows_in(batch: tuple[Any, ...]) -> int:
    """How many data a batch has, by its first argument."""
    first = batch[0]
    return Inputs.of(first).rows or 1 if isinstance(first, Mapping | tuple) else len(first)


def own_generators(loader: Any) -> list[torch.Generator]:
    """Torch's generators in a loader, its samplers and its data set, each once, always in the same order."""
    generators = [getattr(part, "generator", None) for part in parts(loader)]
    return list({id(own): own for own in generators if isinstance(own, torch.Generator)}.values())


def tell_epoch(loader: Any, epoch: int) -> None:
    """Tells a loader's parts which epoch begins, as ``DistributedSampler`` wants it: else all have the same order."""
    for part in parts(loader):
        if callable(tell := getattr(part, "set_epoch", None)):
            tell(epoch)


def parts(loader: Any) -> Iterator[Any]:
    """The loader, its samplers, the samplers inside of those, and its data set; each once."""
    waiting, seen = [loader], set[int]()
    while waiting:
        part = waiting.pop(0)
        if part is not None and id(part) not in seen:
            seen.add(id(part))
            waiting += [getattr(part, name, None) for name in _PARTS]
            yield part
