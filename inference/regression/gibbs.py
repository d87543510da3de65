"""A run of several chains: starts, warm-up, how long, and what the chains say about their own error."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from l0bayes.inference.regression.chains import Chains, Path, Sums
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.set_prior import SetPrior

Arr = np.ndarray

MANY, FEW = 16, 8  # chains, of which a step costs less the more there are; and where columns are many
_MANY_COLUMNS = 500
_STRETCH = 50  # steps that are added up before they are kept
_ROUND = 500  # steps between looks at the error
_BATCHES = (25, 12, 6)  # of each chain, for its error: the longer they are, the slower the changes they see
_WARM_UP = 150  # steps of a part of the warm-up
_PARTS = 20  # at most
_LEVEL = 0.1  # change in size, relative, between two parts that are alike
_ACCURATE = 0.005  # Monte Carlo standard errors at which a run ends before its time
_AGREE = 1.05  # R-hat likewise
_GOOD_ENOUGH = 0.01  # standard errors above which it goes on after its time,
LONGER = 4  # for up to so many times as long
_START = 20  # columns in a start
_TOO_MANY = 1000  # columns that a prior may expect


@dataclass(frozen=True)
class GibbsRun:
    """What the chains found.

    Attributes:
        inclusion: of the gates, of shape ``(gates,)``.
        mean, second: moments of the coefficients b, of shape ``(p,)``.
        mcse: Monte Carlo standard errors of ``inclusion``: the larger one of what batches within chains and what the
            spread of the chains say.
        rhat: split R-hat of the indicators: it compares means of half chains with the variance of an indicator.
        ess: number of independent draws of an indicator that would have this error; at most the number of steps.
        spread: largest difference of ``inclusion`` between two chains.
        slots, levels, weights: the path, of shapes ``(chains, steps, slots)``, ``(chains, steps)``, ``(chains,
            steps)``.
        steps: of all chains.
    """

    inclusion: Arr
    mean: Arr
    second: Arr
    mcse: Arr
    rhat: Arr
    ess: Arr
    spread: Arr
    slots: Arr
    levels: Arr
    weights: Arr
    steps: int


def sample_sets(
    make: Callable[[Arr, np.random.Generator], Chains],
    prior: SetPrior,
    members: GateMembers,
    rows: int,
    *,
    chains: int | None,
    steps: int,
    seed: int,
) -> GibbsRun:
    """Samples until probabilities are accurate, or for so many steps; longer where they are far from accurate.

    Args:
        make: chains from their starts, 0/1 of shape ``(chains, gates)``, and a source of chance.
        prior: of the sets of gates.
        members: which columns hang on which gate.
        rows: of the data.
        chains: how many; by the number of columns if ``None``.
        steps: of each chain after the warm-up: fewer if standard errors are below 0.005 before, up to four times as
            many as long as one is above 0.01.
        seed: of all chance.

    Raises:
        ValueError: if the prior expects more columns than can be handled.
    """
    expected = float(prior.probs.numpy() @ members.sizes[:-1])
    if not prior.shares_probability and expected > _TOO_MANY:
        raise ValueError(
            f"inclusion: under this prior {expected:.0f} of {members.p} columns are expected, too many to sample. Give "
            f"expected_open=, or inclusion=Beta(1, {members.gates})"
        )
    rng = np.random.default_rng(seed)
    number = chains or (MANY if members.p <= _MANY_COLUMNS else FEW)
    sampler = make(_starts(number, rows, members, prior, rng), rng)
    _warm_up(sampler)
    total, path = sampler.sums(), Path()
    stretches: list[tuple[Arr, Arr]] = []
    interval = min(_ROUND, steps)
    while not _is_over(total.steps, steps, stretches):
        part = sampler.sums()
        for _ in range(min(_STRETCH, interval - total.steps % interval)):
            sampler.step(part, path)
        total = _added(total, part)
        stretches.append((part.weight, part.inclusion))
    return _run(total, path, stretches, members.p)


def _is_over(done: int, planned: int, stretches: list[tuple[Arr, Arr]]) -> bool:
    """Whether to stop: asked when the time has come, and in rounds before and after."""
    if done < min(planned, 2 * _ROUND) or done % min(_ROUND, planned):
        return False
    if done >= LONGER * planned:
        return True
    mcse, rhat = _errors(stretches)[:2]
    return bool(mcse.max() <= (_ACCURATE if done < planned else _GOOD_ENOUGH) and rhat.max() <= _AGREE)


def _starts(chains: int, rows: int, members: GateMembers, prior: SetPrior, rng: np.random.Generator) -> Arr:
    """One without columns, the others with random ones, so that chains which agree have found each other."""
    starts = np.zeros((chains, members.gates), dtype=bool)
    most = max(min(_START // members.width, members.gates // 2, rows // (4 * members.width)), 1)
    for chain, size in enumerate(rng.integers(0, most + 1, size=chains)):
        starts[chain, rng.choice(members.gates, size=size if chain else 0, replace=False)] = True
    return starts if prior.rules is None else prior.rules.completed(starts)


def _warm_up(sampler: Chains) -> None:
    """Until the sizes of the sets have come to rest."""
    size = np.inf
    for _ in range(_PARTS):
        sampler.warm_up(_WARM_UP)
        before, size = size, sampler.size
        if abs(size - before) <= _LEVEL * size + 1:
            return


def _added(one: Sums, other: Sums) -> Sums:
    return Sums(
        one.weight + other.weight,
        one.inclusion + other.inclusion,
        one.first + other.first,
        one.second + other.second,
        one.steps + other.steps,
    )


def _run(total: Sums, path: Path, stretches: list[tuple[Arr, Arr]], p: int) -> GibbsRun:
    weight = total.weight.sum()
    inclusion = np.clip(total.inclusion.sum(0) / weight, 0, 1)
    mcse, rhat, spread = _errors(stretches)
    draws = float(total.steps * len(total.weight))
    with np.errstate(divide="ignore", invalid="ignore"):
        ess = np.where(mcse > 0, np.minimum(inclusion * (1 - inclusion) / mcse**2, draws), draws)
    size = max(slots.shape[1] for slots in path.slots)
    slots = [np.pad(one, ((0, 0), (0, size - one.shape[1])), constant_values=p) for one in path.slots]
    weights = np.stack(path.weights, 1)
    return GibbsRun(
        inclusion=inclusion,
        mean=total.first.sum(0) / weight,
        second=total.second.sum(0) / weight,
        mcse=mcse,
        rhat=rhat,
        ess=ess,
        spread=spread,
        slots=np.stack(slots, 1),
        levels=np.stack(path.levels, 1),
        weights=weights / weights.sum(1, keepdims=True),
        steps=total.steps * len(total.weight),
    )


def _errors(stretches: list[tuple[Arr, Arr]]) -> tuple[Arr, Arr, Arr]:
    """Monte Carlo standard errors, R-hat, and the largest difference between chains, each of shape ``(gates,)``."""
    weight = np.stack([one[0] for one in stretches])  # (stretches, chains)
    added = np.stack([one[1] for one in stretches])
    each = added.sum(0) / weight.sum(0)[:, None]
    chains, share = weight.shape[1], weight.sum(0) / weight.sum()
    overall = share @ each
    within = np.max([_within(weight, added - each * weight[..., None], number) for number in _BATCHES], axis=0)
    between = ((share[:, None] * (each - overall)) ** 2).sum(0) * chains / max(chains - 1, 1)
    mcse = np.sqrt(np.maximum(within, between))
    half = [0, max(len(weight) // 2, 1)] if len(weight) > 1 else [0]
    halves = np.add.reduceat(added, half) / np.add.reduceat(weight, half)[..., None]
    halves = np.clip(halves.reshape(-1, halves.shape[-1]), 0, 1)
    variance = (halves * (1 - halves)).mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = halves.var(0, ddof=1 if len(halves) > 1 else 0) / variance
    rhat = np.sqrt(1 + np.nan_to_num(ratio, nan=0.0))
    return mcse, rhat, each.max(0) - each.min(0)


def _within(weight: Arr, deviation: Arr, number: int) -> Arr:
    """Squared errors by batches of each chain.

    A ratio of sums: the error is that of the sum of what batches deviate from it.
    """
    ends = np.arange(0, len(weight), -(-len(weight) // number))
    batch = np.add.reduceat(deviation, ends)
    return np.asarray((batch**2).sum((0, 1)) * len(ends) / max(len(ends) - 1, 1) / weight.sum() ** 2)
