"""Which of several groups of gates are to blame, where a trial finds that something differs."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from l0bayes.structure import GateGroup
from l0bayes.subnetwork.cases import Case, Difference
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
        bad: names of the others, to how they differ.
    """

    def __init__(self, trial: Trial, case: Case, known: Sequence[GateGroup] = ()) -> None:
        self._trial, self._case = trial, case
        self.good: list[GateGroup] = list(known)
        self.bad: dict[str, Difference] = {}

    def put(self, groups: Sequence[GateGroup]) -> None:
        """Puts each of several groups where it belongs."""
        found = self._trial.difference(self._case, [*self.good, *groups], alone=len(groups) == 1) if groups else None
        if found is None:
            self.good.extend(groups)
        elif len(groups) == 1:
            self._leave_out(groups[0], found)
        else:
            self.divide(groups)

    def divide(self, groups: Sequence[GateGroup]) -> None:
        """The same for several groups, one of which at least is bad.

        Kind by kind, and by halves: what is written in for one layer is for those that are built alike. Where the first
        of a kind differs, the others most often do too: those that fail in their own module are told at once, and the
        rest looked at one by one.
        """
        kinds = _by_kind(groups)
        if len(kinds) > 1:
            for half in _halves(kinds):
                self.put([group for kind in half for group in kind])
            return
        first, *rest = groups
        self.put([first])
        if first.name not in self.bad:
            for part in _halves(rest):
                self.put(part)
            return
        failing = self._trial.failing_alone(self._case, self.good, rest)
        for group in rest:
            if group.name in failing:
                self._leave_out(group, failing[group.name])
            else:
                self.put([group])

    def _leave_out(self, group: GateGroup, found: Difference) -> None:
        how = "compacted" if self._case.compacted else "with its closed features removed"
        self.bad[group.name] = replace(found, reason=f"{how} the network does not compute the same: {found.reason}")


def _halves(of: Sequence[_Item]) -> tuple[Sequence[_Item], Sequence[_Item]]:
    middle = len(of) // 2
    return of[:middle], of[middle:]


def _by_kind(groups: Sequence[GateGroup]) -> list[list[GateGroup]]:
    """Groups of layers that are named alike but for numbers, which most often are built alike."""
    kinds: dict[str, list[GateGroup]] = {}
    for group in groups:
        kinds.setdefault(re.sub(r"\d+", "", group.name), []).append(group)
    return list(kinds.values())
