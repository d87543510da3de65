"""The courses that a network takes on data with other integers and booleans.

Where a network reads such data as numbers (``if mask.all(): …``), which of its operations run may depend on them. No
feature has a say in that, so all courses can be followed; they are looked for on inputs of the same shapes.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.compat import TorchDispatchMode
from l0bayes.inputs import Inputs

Course = tuple[str, ...]


def variations(inputs: Inputs) -> Iterator[Inputs]:
    """The same inputs with other integers and booleans, of values that occur, or are those of masks."""
    changes = (
        lambda x: x.flip(-1) if x.dim() else x,
        lambda x: torch.ones_like(x) if _is_mask(x) else x,
        lambda x: _padded(x) if _is_mask(x) else x,
        lambda x: x if _is_mask(x) else torch.full_like(x, int(x.max())),
        lambda x: x if _is_mask(x) else torch.full_like(x, int(x.min())),
    )
    for change in changes:
        other = inputs.map(lambda x, change=change: change(x) if _counts(x) else x)  # type: ignore[misc]
        if any(not torch.equal(x, y) for x, y in zip(other.tensors, inputs.tensors, strict=True)):
            yield other


def _counts(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex() and x.numel() > 0


def _is_mask(x: Tensor) -> bool:
    return x.dtype == torch.bool or bool(((x == 0) | (x == 1)).all())


def _padded(mask: Tensor) -> Tensor:
    """A mask that leaves out the second half of the last row."""
    padded = torch.ones_like(mask)
    if padded.dim():
        row = padded[-1] if padded.dim() > 1 else padded
        row[..., row.shape[-1] // 2 :] = 0
    return padded


@torch.inference_mode()
def other_courses(net: nn.Module, inputs: Inputs) -> list[Inputs]:
    """Inputs on which a network takes another course than on the given ones, one for each course that is found.

    Args:
        net: the network, in the mode that it is looked at in.
        inputs: arguments that it accepts.
    """
    seen = {course_of(net, inputs)}
    found = []
    for other in variations(inputs):
        try:
            course = course_of(net, other)
        except Exception:  # noqa: BLE001, S112 (such data it does not take)
            continue
        if course not in seen:
            seen.add(course)
            found.append(other)
    return found


def course_of(net: nn.Module, inputs: Inputs) -> Course:
    """The operations of torch that run, by name and in order."""
    with _Names() as names:
        inputs.map(torch.clone).call(net)
    return tuple(names.found)


class _Names(TorchDispatchMode):
    """Notes the names of the operations that run while it is on."""

    def __init__(self) -> None:
        parent: Any = super()
        parent.__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes an operation and notes its name."""
        self.found.append(str(func))
        return func(*args, **(kwargs or {}))
