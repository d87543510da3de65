"""How a network can be run for a trial: in which precision, in which modes, and on which rows of the example."""

import copy

import torch
from torch import Tensor, nn

from l0bayes.errors import StructureError
from l0bayes.inputs import Inputs
from l0bayes.subnetwork.chance import certain
from l0bayes.subnetwork.comparing import FewerDigits


def another(x: Tensor) -> Tensor:
    """An input of the same kind with other values."""
    return x + torch.linspace(0.5, 1, x.numel()).reshape(x.shape).to(x) if x.is_floating_point() else x.flip(-1)


def in_double(inputs: Inputs) -> Inputs:
    """The same inputs, those that are of floating point in float64."""
    return inputs.map(lambda x: x.double() if x.is_floating_point() else x)


def way_to_run(net: nn.Module, given: Inputs) -> tuple[bool, bool, Inputs]:
    """Whether in float64, whether in training mode too, and on which rows.

    In float64 unless the network insists on a dtype; on the fewest rows that tell all. One image tells as much as many,
    but for networks that need several, as batch norm in training does.

    Args:
        net: the network; copies of it are run.
        given: an example of its arguments.

    Raises:
        StructureError: if it does not run at all.
    """
    choices, tensors = [given], given.tensors
    if len(given.leaves) == 1 and tensors and tensors[0].dim() > 3:  # noqa: PLR2004 (images)
        choices.insert(0, given.map(lambda x: x[:1]))
    if all(x.dim() > 0 and len(x) == 1 for x in tensors):
        choices.append(given.map(lambda x: torch.cat((x, another(x)))))
    ways = [(double, True, rows) for double in (True, False) for rows in choices] + [(True, False, given)]
    for double, trains, rows in ways:
        if _error(net, rows, double=double, training=trains) is None:
            return double, trains, rows
    if (error := _error(net, given, double=False, training=False)) is not None:
        raise StructureError(
            f"example_input: {type(net).__name__} does not run on {given.described()} where it is ({error}). Pass one "
            "on the network's device, of the shape and type it takes"
        ) from error
    return False, False, given


@torch.no_grad()
def _error(net: nn.Module, rows: Inputs, *, double: bool, training: bool) -> Exception | None:
    """Why a copy does not run in evaluation, or in training mode if that is asked for; ``None`` if it does.

    In float64 it has to compute all in that, or the numbers tell less than it seems.
    """
    net = copy.deepcopy(net)
    inputs = in_double(rows) if double else rows
    if double:
        net.double()
    for mode in (False, True) if training else (False,):
        try:
            with certain(net), FewerDigits() as digits:
                inputs.map(torch.clone).call(net.train(mode))
        except Exception as error:  # noqa: BLE001 (batch norm of a single value per channel, or whatever it says)
            return error
        if double and digits.seen and not mode:
            return TypeError("not all of it is computed in float64")
    return None
