"""A trial of a structure: a copy of the network with random weights, run masked and narrowed for telling gates."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.compat import tree_leaves, tree_map_tensors
from l0bayes.copying import copied
from l0bayes.inputs import Inputs
from l0bayes.layers.widths import attributes, computes_by_width
from l0bayes.structure import GateGroup
from l0bayes.subnetwork.arguments_given import Arguments
from l0bayes.subnetwork.cases import Case, Difference, early_closed, late_closed, one_open
from l0bayes.subnetwork.chance import certain, drop_nothing, same, where_it_differs
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.subnetwork.comparing import LargestNumber, compare, compare_gradients, gradients
from l0bayes.subnetwork.masked import masked_forward, multiplied
from l0bayes.subnetwork.running import run_subnetwork
from l0bayes.subnetwork.selection import Selection, Selector
from l0bayes.subnetwork.way_to_run import another, in_double, way_to_run


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _key(case: Case, groups: Sequence[GateGroup]) -> Any:
    """What the masked network's outputs depend on."""
    return case.gates, case.training, case.course, tuple(group.name for group in groups)


def _gradients_if_any(net: nn.Module, outputs: Any) -> list[Tensor | None] | None:
    try:
        return gradients(net, outputs)
    except Exception:  # noqa: BLE001 (it cannot be trained as it is)
        return None


def _home(group: GateGroup) -> str:
    """The name of the smallest module that has all slices of a group; ``""`` for the network."""
    paths = [part.tensor.split(".")[:-1] for part in group.slices]
    common = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
    return ".".join(names[0] for names in common)


class Trial:
    """A copy of the network with random weights, since a layer that starts at zero would hide a difference.

    Args:
        net: the network.
        inputs: an example of its arguments.
        courses: others, on which it takes other courses.

    Attributes:
        rows: as many rows of it as tell all.
    """

    def __init__(self, net: nn.Module, inputs: Inputs, courses: Sequence[Inputs] = ()) -> None:
        self._net = copy.deepcopy(net).eval()
        drop_nothing(self._net)
        self._known: tuple[Any, Any] = (None, None)  # outputs of the masked network, and what they were computed for
        self._selector: tuple[Any, Any] = (None, None)  # and the names of the groups that it is for
        self._steady: dict[bool, Any] = {}  # outputs of the full network in each mode
        self._double, self._trains, self.rows = way_to_run(self._net, inputs)
        self._inputs, *self._courses = (in_double(one) if self._double else one for one in (self.rows, *courses))
        if self._double:
            self._net.double()
        self._randomise()

    @torch.no_grad()
    def _randomise(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, tensor in [*self._net.named_parameters(), *self._net.named_buffers()]:
            if not tensor.is_floating_point() or tensor.layout != torch.strided:
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
            if isinstance(tensor, nn.Parameter):
                tensor.copy_(noise * tensor[0].numel() ** -0.5 if tensor.dim() > 1 else noise)
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif name.endswith("running_mean"):
                tensor.copy_(noise)

    def chance(self, seed: int = 0) -> str | None:
        """What is random in the network although torch's random functions are held; ``None`` if nothing is.

        Args:
            seed: of the second of two runs; with 0, as that of the first, it is what follows from no seed at all.
        """
        for training in (False, True) if self._trains else (False,):
            case = Case(torch.ones, training=training)
            runs = [partial(self._masked, case, (), {}, seed=s) for s in (0, seed)]
            if training not in self._steady:
                self._steady[training] = runs[0]()
            if not same(self._steady[training], runs[1]()):
                return where_it_differs(self._net, *runs) + (" in training mode" if training else "")
        return None

    def _gates(self, case: Case, groups: Sequence[GateGroup]) -> dict[str, Tensor]:
        device = next(self._net.parameters()).device
        return {group.name: case.gates(group.size).to(device) for group in groups}

    def blind_without(self, groups: Sequence[GateGroup], names: Sequence[str]) -> set[str]:
        """Those of ``names`` any one of which, closed, leaves an output that does not depend on the input.

        By halves, since what can be closed together can be closed alone. Every other one makes a half: branches
        side by side come one after the other, and closing all of them would hide that each can do without.
        """
        if not names or self.sees_the_input(groups, set(names)):
            return set()
        if len(names) == 1:
            return set(names)
        return self.blind_without(groups, names[::2]) | self.blind_without(groups, names[1::2])

    @torch.no_grad()
    def sees_the_input(self, groups: Sequence[GateGroup], closed: set[str]) -> bool:
        """Whether the output still depends on the input when some groups are closed altogether."""
        device = next(self._net.parameters()).device
        gates = {g.name: torch.full((g.size,), float(g.name not in closed), device=device) for g in groups}
        given, others = self._given(), self._given().map(another)
        try:
            with certain(self._net):
                first = tree_leaves(masked_forward(self._net, groups, gates, *given.args, **given.kwargs))
            with certain(self._net):
                second = tree_leaves(masked_forward(self._net, groups, gates, *others.args, **others.kwargs))
        except Exception:  # noqa: BLE001 (it takes no other input: nothing to be learned)
            return True
        return any(isinstance(y, Tensor) and not torch.equal(y, z) for y, z in zip(first, second, strict=True))

    def _given(self, case: Case | None = None) -> Inputs:
        """The inputs, anew for each run: the network may write into them."""
        inputs = self._courses[case.course - 1] if case is not None and case.course else self._inputs
        return inputs.map(torch.clone)

    def cases(self) -> Iterator[Case]:
        """What is checked, the most telling first; training mode only where the full network runs in it."""
        yield Case(early_closed, gradients=True)
        yield Case(early_closed, compacted=True)
        yield Case(late_closed)
        yield Case(one_open)
        for number in range(len(self._courses)):
            yield Case(early_closed, course=number + 1)
        if not self._trains:
            return
        yield Case(early_closed, training=True)
        yield Case(early_closed, training=True, compacted=True)

    def agree(self, case: Case, groups: Sequence[GateGroup]) -> bool:
        """Whether all is well with all groups at once, as it is for most networks."""
        return not groups or self.difference(case, groups, alone=False) is None

    def _in_mode(self, case: Case) -> nn.Module:
        """The network; in training mode a fresh copy, since each run changes what it keeps from batch to batch."""
        return copied(self._net).train() if case.training else self._net

    def difference(self, case: Case, groups: Sequence[GateGroup], *, alone: bool) -> Difference | None:
        """How the subnetwork differs from the masked network; ``None`` if it does not.

        Args:
            case: which gates are closed, and how it is run.
            groups: the groups whose gates are, all of which but the last are known to be good if it is ``alone``.
            alone: whether the last is the one that is tried, so that its reason matters.
        """
        gates = self._gates(case, groups)
        try:
            if case.compacted:
                self._try_compacted(case, groups, gates, explain=alone)
            else:
                self._try_run(case, groups, gates)
        except Exception as error:  # noqa: BLE001 (whatever a narrower network raises, its layer stays dense)
            return Difference(_reason(error), of_numbers=isinstance(error, AssertionError))
        return None

    def failing_alone(
        self, case: Case, good: Sequence[GateGroup], groups: Sequence[GateGroup]
    ) -> dict[str, Difference]:
        """Those of several groups with which the one module that has all their slices does not even run.

        The module is run by itself, on what it is given in a run of the network, so that many are tried in the time of
        a few runs. That it runs is not enough to be good.

        Args:
            case: which gates are closed.
            good: groups known to be good; those in the same module are closed as well.
            groups: the groups.

        Returns:
            Group name to how it fails.
        """
        homes = {group.name: _home(group) for group in groups}
        if case.compacted or not any(homes.values()):
            return {}
        net = self._in_mode(case)
        with torch.no_grad(), certain(net), Arguments(net, {home for home in homes.values() if home}) as arguments:
            self._given(case).call(net)
        found: dict[str, Difference] = {}
        for group in groups:
            if homes[group.name] in arguments.seen:
                inside = [other for other in good if _home(other).startswith(homes[group.name])]
                reason = self._failure(net, homes[group.name], [*inside, group], case, arguments)
                if reason is not None:
                    found[group.name] = Difference(reason, of_numbers=False)
        return found

    @torch.no_grad()
    def _failure(
        self, net: nn.Module, home: str, groups: Sequence[GateGroup], case: Case, arguments: Arguments
    ) -> str | None:
        """Why a module does not run with some gates closed, if it does with all open."""
        module, part = net.get_submodule(home), Selector(net, groups)(net, self._gates(case, groups)).within(home)
        for selection in (Selection({}), part):
            given = arguments.seen[home].map(torch.clone)  # anew for each run: it may write into them
            try:
                with certain(module):
                    run_subnetwork(module, selection, *given.args, **given.kwargs)
            except Exception as error:  # noqa: BLE001 (whatever it says)
                return None if selection is not part else _reason(error)
        return None

    def _try_run(self, case: Case, groups: Sequence[GateGroup], gates: Mapping[str, Tensor]) -> None:
        """Raises unless a run of the subnetwork gives what the masked network does."""
        net = self._in_mode(case)
        backwards = case.gradients or not self._double
        with torch.set_grad_enabled(backwards), certain(self._net):
            given = self._given(case)
            selected = run_subnetwork(net, self._select(groups)(net, gates), *given.args, **given.kwargs)  # fails early
        masked = self._masked_with_graph(case, groups, gates) if backwards else None
        self._compare(selected, case, groups, gates)
        wanted = None if masked is None else _gradients_if_any(*masked)
        if wanted is not None:
            compare_gradients(net, gradients(net, selected), wanted)

    @torch.enable_grad()
    def _masked_with_graph(
        self, case: Case, groups: Sequence[GateGroup], gates: Mapping[str, Tensor]
    ) -> tuple[nn.Module, Any] | None:
        """The masked network and its outputs, to be differentiated; ``None`` if it cannot be run like that."""
        full = self._in_mode(case)
        try:
            with certain(self._net):
                given = self._given(case)
                outputs = masked_forward(full, groups, gates, *given.args, **given.kwargs)
        except Exception:  # noqa: BLE001 (whatever it says, it has none to compare)
            return None
        self._known = _key(case, groups), tree_map_tensors(torch.detach, outputs)
        return full, outputs

    def _select(self, groups: Sequence[GateGroup]) -> Selector:
        """The selector of some groups, whose tables take a while to build."""
        names = [(group.name, group.padded) for group in groups]
        if names != self._selector[0]:
            self._selector = names, Selector(self._net, groups)
        selector: Selector = self._selector[1]
        return selector

    @torch.no_grad()
    def _try_compacted(
        self, case: Case, groups: Sequence[GateGroup], gates: Mapping[str, Tensor], *, explain: bool
    ) -> None:
        """Raises unless the compacted network gives what the masked network does."""
        full = self._in_mode(case)
        small = compact_network(full, groups, gates)
        with certain(self._net):
            outputs = self._given(case).call(small)
        try:
            self._compare(outputs, case, groups, gates)
        except AssertionError as error:
            layer = self._whose_width_is_read(full, small, outputs) if explain else None
            if layer is None:
                raise
            raise AssertionError(
                f"forward reads the width that {layer!r} states, which is another there. Write the number instead"
            ) from error

    def _whose_width_is_read(self, full: nn.Module, small: nn.Module, outputs: Any) -> str | None:
        """The layer whose full width, stated in the compacted network, changes its outputs."""
        for name, layer in small.named_modules():
            if computes_by_width(layer):
                continue
            stated = attributes(layer, {own: p.shape for own, p in layer.named_parameters(recurse=False)})
            whole = {attribute: getattr(full.get_submodule(name), attribute) for attribute in stated}
            try:
                vars(layer).update(whole)
                with certain(small):
                    compare(self._given().call(small), outputs, double=self._double)
            except AssertionError:
                return str(name)
            finally:
                vars(layer).update(stated)
        return None

    def _compare(self, found: Any, case: Case, groups: Sequence[GateGroup], gates: Mapping[str, Tensor]) -> None:
        """Raises ``AssertionError`` unless outputs are the masked network's.

        Only where they seem not to be does it look at the numbers in between, whose rounding there may be left.
        """
        key = _key(case, groups)
        if key != self._known[0]:
            self._known = key, self._masked(case, groups, gates)
        try:
            compare(found, self._known[1], double=self._double)
        except AssertionError:
            if not self._double:
                raise
            with LargestNumber() as numbers:
                self._masked(case, groups, gates)
            compare(found, self._known[1], largest=numbers.largest)

    @torch.no_grad()
    def _masked(self, case: Case, groups: Sequence[GateGroup], gates: Mapping[str, Tensor], seed: int = 0) -> Any:
        net = self._in_mode(case)
        with multiplied(net, groups, gates), certain(net, seed):
            return self._given(case).call(net)
