"""Rules for sets of gates: which are always open, and which only with others, as an interaction with its factors."""

from collections.abc import Mapping, Sequence

import numpy as np

from l0bayes.models.special import betaln, logit

Arr = np.ndarray


class SetRules:
    """Which sets are possible, and which gates a set leaves to chance.

    A gate whose parents are not all open is closed, and the prior says nothing of it; of all others it says what it
    says without rules (strong heredity: Chipman 1996, Canadian Journal of Statistics 24). So the prior needs no other
    constant, and an interaction has its probability given that it may be there.

    Args:
        always: whether each gate is always open, of shape ``(gates,)``.
        parents: whether one gate, a row, needs another, a column, of shape ``(gates, gates)``.
    """

    def __init__(self, always: Arr, parents: Arr) -> None:
        self.always = always
        self.parents = parents.astype(float)

    def _missing(self, inside: Arr) -> Arr:
        """How many of its parents each gate lacks."""
        return np.asarray(np.rint((1.0 - inside) @ self.parents.T))

    def left_to_chance(self, inside: Arr) -> Arr:
        """Gates that a set leaves to chance, of shape ``(sets, gates)``."""
        return np.asarray((self._missing(inside) == 0) & ~self.always)

    def possible(self, inside: Arr) -> Arr:
        """Whether sets are possible, of shape ``(sets,)``."""
        return np.asarray((inside[:, self.always] > 0).all(1) & ~((inside > 0) & (self._missing(inside) > 0)).any(1))

    def removable(self, inside: Arr) -> Arr:
        """Gates that may be closed, of shape ``(sets, gates)``: not always open, and without open children."""
        return np.asarray((inside > 0) & ~(inside.astype(float) @ self.parents > 0) & ~self.always)

    def completed(self, inside: Arr) -> Arr:
        """Sets with what is always open, and with all that their gates need."""
        found = inside | self.always
        for _ in range(len(self.always)):
            found = found | (found.astype(float) @ self.parents > 0)
        return np.asarray(found)

    def log_prob(self, inside: Arr, probs: Arr | None, concentrations: tuple[float, float]) -> Arr:
        """Log-probabilities of sets, of shape ``(sets,)``.

        Args:
            inside: 0 and 1, of shape ``(sets, gates)``.
            probs: of the gates; ``None`` if they share one that is unknown,
            concentrations: with a Beta prior of these.
        """
        chance = self.left_to_chance(inside)
        if probs is None:
            a, b = concentrations
            count, number = (inside * chance).sum(1), chance.sum(1)
            found = betaln(a + count, b + number - count) - betaln(a, b)
        else:
            given = np.where(self.always, 0.5, probs)
            found = (chance * (inside * logit(given) + np.log1p(-given))).sum(1)
        return np.where(self.possible(inside), found, -np.inf)

    def log_odds(self, inside: Arr, probs: Arr | None, concentrations: tuple[float, float]) -> Arr:
        """Log-odds of each gate given the others; infinite where these leave it no choice.

        Arguments are those of :meth:`log_prob`.
        """
        inside = inside.astype(float)
        missing = self._missing(inside)
        # Opening a gate leaves those to chance that lack only it; they are closed, or it could not be closed itself.
        lacking = np.stack([(missing == 1) & ~self.always, (missing == 0) & ~self.always]).astype(float)
        if probs is None:
            a, b = concentrations
            freed = np.where(inside > 0, lacking[1] @ self.parents, lacking[0] @ self.parents)
            chance = (missing == 0) & ~self.always
            count = (inside * chance).sum(1)[:, None] - inside * chance
            # Whether a gate is open makes no difference to its own being left to chance.
            number = chance.sum(1)[:, None] - inside * freed
            rest = np.maximum(number - count, 1e-9)
            odds = betaln(a + count + 1, np.maximum(b + rest + freed - 1, 1e-9)) - betaln(a + count, b + rest)
        else:
            given = np.where(self.always, 0.5, probs)
            closed = np.log1p(-given)[:, None] * self.parents
            odds = logit(given) + np.where(inside > 0, lacking[1] @ closed, lacking[0] @ closed)
        odds = np.where(missing > 0, -np.inf, odds)
        kept = self.always | ((inside @ self.parents > 0) & (inside > 0))
        return np.where(kept, np.inf, odds)

    def propensities(self, propensity: Arr, rest: Arr) -> Arr:
        """Sums of what could be exchanged if one more gate were open.

        Args:
            propensity: of each gate to be exchanged.
            rest: which are open, of shape ``(sets, gates)``.

        Returns:
            Of shape ``(sets, gates)``.
        """
        moving = self.removable(rest) * propensity
        return np.asarray(moving.sum(1, keepdims=True) + propensity - moving @ self.parents.T)


def read_rules(
    names: Sequence[str], always: Sequence[str] | None, parents: Mapping[str, Sequence[str]] | None
) -> SetRules | None:
    """Reads rules by the names of gates.

    Args:
        names: of the gates.
        always: those that are always open.
        parents: for some, those without which they are closed.

    Returns:
        The rules; ``None`` if there are none.

    Raises:
        ValueError: if a name is unknown, a gate is its own ancestor, or one is always open whose parents are not.
    """
    if not always and not parents:
        return None
    number = {name: at for at, name in enumerate(names)}

    def known(argument: str, name: str) -> int:
        if name not in number:
            raise ValueError(f"{argument}: {name!r} is none of {', '.join(names)}")
        return number[name]

    fixed, needs = np.zeros(len(names), dtype=bool), np.zeros((len(names), len(names)), dtype=bool)
    fixed[[known("always", name) for name in always or ()]] = True
    for child, ancestors in (parents or {}).items():
        needs[known("parents", child), [known("parents", name) for name in ancestors]] = True
    reached = needs.copy()
    for _ in range(len(names)):
        reached |= (reached.astype(float) @ needs) > 0
    if reached.diagonal().any():
        raise ValueError(f"parents: {names[int(reached.diagonal().argmax())]!r} needs itself")
    if (wrong := (needs[fixed] & ~fixed).any(1)).any():
        raise ValueError(
            f"always: {names[int(fixed.nonzero()[0][wrong.argmax()])]!r} has parents that are not always in"
        )
    return SetRules(fixed, needs)
