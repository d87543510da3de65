"""Which of several groups of gates are to blame, where a trial finds that something differs."""

import re
from collections.abc import Sequence
from typing import TypeVar

from l0bayes.structure import GateGroup
from l0bayes.subnetwork.cases import Case
from l0bayes.subnetwork.trial import Trial

_Item = TypeVar("_Item")


class Sorting:
    """Sorts the groups of one case.

    Args:
        trial: of the network.
        case: which gates are closed, and how it is run.
        known: groups that are good already.

    Attributes:
        good: groups with which all is well.
        bad: names of the others, to the reason.
    """

    def __init__(self, trial: Trial, case: Case, known: Sequence[GateGroup] = ()) -> None:
        self._trial, self._case = trial, case
        self.good: list[GateGroup] = list(known)
        self.bad: dict[str, str] = {}

    def put(self, groups: Sequence[GateGroup]) -> None:
        """Puts each of several groups where it belongs."""
        reason = self._trial.difference(self._case, [*self.good, *groups], alone=len(groups) == 1) if groups else None
        if reason is None:
            self.good.extend(groups)
        elif len(groups) == 1:
            how = "compacted" if self._case.compacted else "with its closed features removed"
            self.bad[groups[0].name] = f"{how} the network does not compute the same: {reason}"
        else:
            self.divide(groups)

    def divide(self, groups: Sequence[GateGroup]) -> None:
        """The same for several groups, one of which at least is bad.

        Kind by kind, and by halves: what is written in for one layer is for those that are built alike. Where the first
        of a kind differs, the others are looked at one by one, since they most often do too.
        """
        kinds = _by_kind(groups)
        if len(kinds) > 1:
            for half in _halves(kinds):
                self.put([group for kind in half for group in kind])
            return
        first, *rest = groups
        self.put([first])
        for part in [[one] for one in rest] if first.name in self.bad else _halves(rest):
            self.put(part)


def _halves(of: Sequence[_Item]) -> tuple[Sequence[_Item], Sequence[_Item]]:
    middle = len(of) // 2
    return of[:middle], of[middle:]


def _by_kind(groups: Sequence[GateGroup]) -> list[list[GateGroup]]:
    """Groups of layers that are named alike but for numbers, which most often are built alike."""
    kinds: dict[str, list[GateGroup]] = {}
    for group in groups:
        kinds.setdefault(re.sub(r"\d+", "", group.name), []).append(group)
    return list(kinds.values())
