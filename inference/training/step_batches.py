"""The batches of an epoch as a run takes them: step by step, from where it stopped, whatever the loader does."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from l0bayes.compat import tree_map_tensors
from l0bayes.errors import DataError, L0BayesError
from l0bayes.inference.data.loaders import arguments_of, own_generators, tell_epoch
from l0bayes.inference.storage.checkpoint import Progress
from l0bayes.inference.system.random_state import random_state, set_random_state
from l0bayes.inference.training.fit_options import FitOptions

Batch = tuple[Any, ...]
Batches = Iterable[Any]


def step_batches(
    loader: Batches, progress: Progress, options: FitOptions, keep: Callable[[], str]
) -> Iterator[list[Batch]]:
    """The batches of each step that is still to do, in the order they would have had without an interruption.

    Args:
        loader: the user's data loader.
        progress: how far the run is; the random state at the start of an epoch is noted there.
        options: how the run trains.
        keep: called when the loader fails, to write down what was learned; says where that is.

    Raises:
        DataError: if the loader fails.
    """
    batches = _guarded(_remaining(loader, progress, options.accumulate), progress, keep)
    if options.channels_last:
        batches = map(_laid_out, batches)
    while group := list(itertools.islice(batches, options.accumulate)):
        yield group


def _remaining(loader: Batches, progress: Progress, accumulate: int) -> Iterator[Batch]:
    own = own_generators(loader)
    tell_epoch(loader, progress.epoch)
    if progress.step == 0:
        progress.epoch_random = random_state(own)
        return iter(loader)
    now = random_state(own)
    set_random_state(progress.epoch_random, own)
    batches = iter(loader)
    for _ in range(progress.step * accumulate):  # the order of data is drawn here, and augmentation of what was seen
        next(batches, None)
    set_random_state(now, own)
    return batches


def _guarded(batches: Iterator[Batch], progress: Progress, keep: Callable[[], str]) -> Iterator[Batch]:
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except L0BayesError:
            raise
        except Exception as error:
            raise _of_the_loader(error, progress, keep) from error
        yield arguments_of(batch)


def _of_the_loader(error: Exception, progress: Progress, keep: Callable[[], str]) -> DataError:
    try:
        kept = keep()
    except RuntimeError as dead_worker:  # torch tells by a signal, which may come only now
        error, kept = dead_worker, keep()
    return DataError(
        f"train_loader failed in epoch {progress.epoch + 1}, after {progress.step} steps, with "
        f"{type(error).__name__}: {error}.{kept}"
    )


def _laid_out(batch: Batch) -> Batch:
    laid_out: Batch = tree_map_tensors(
        lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x,  # noqa: PLR2004 (images)
        tuple(batch),
    )
    return laid_out
