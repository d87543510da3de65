"""A problem small enough to train on in a test, and what the tests of training compare."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from l0bayes import sparsify
from l0bayes.inference import HardConcreteGuide, TensorBatches
from l0bayes.inference.storage.files import read_tensors
from l0bayes.models import MLP, Classifier

SIZES = (6, 5, 4, 3)
ROWS = 50


def blobs(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Three classes that the first two of six features tell apart; always the same."""
    generator = torch.Generator().manual_seed(7)
    y = torch.randint(3, (rows,), generator=generator)
    x = torch.randn(rows, SIZES[0], generator=generator)
    x[:, :2] = 0.3 * x[:, :2] + torch.tensor([[2.0, 0.0], [-2.0, 2.0], [-2.0, -2.0]])[y]
    return x, y


def classifier(sizes: tuple[int, ...] = SIZES, rows: int = ROWS, **options) -> Classifier:
    """A gated network; its inputs and hidden units have gates."""
    return Classifier(sparsify(MLP(*sizes), torch.zeros(2, sizes[0]), **({"gates": "input"} | options)), rows)


def pair(seed: int = 1, init_open: float = 0.6, **options) -> tuple[Classifier, HardConcreteGuide]:
    """A new model and its guide, and the same random state after them."""
    torch.manual_seed(seed)
    model = classifier(**options)
    return model, HardConcreteGuide(model, init_open=init_open)


def loader(batch_size: int = 20, *, shuffle: bool = True) -> TensorBatches:
    return TensorBatches(*blobs(), batch_size, shuffle=shuffle)


def state(*modules: nn.Module) -> dict[str, Tensor]:
    """Copies of all that the modules hold, by number and name."""
    return {
        f"{number}.{name}": value.detach().clone()
        for number, module in enumerate(modules)
        for name, value in module.state_dict().items()
    }


def assert_equal_states(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    different = [name for name in one if one[name].numpy().tobytes() != other[name].numpy().tobytes()]
    assert not different


def assert_equal_checkpoints(one: Path, other: Path) -> None:
    """Bit for bit, but for the time it took: parameters, optimizer, random state, history."""
    (tensors, facts), (other_tensors, other_facts) = (read_tensors(path, "checkpoint") for path in (one, other))
    assert_equal_states(tensors, other_tensors)
    for each in (facts, other_facts):
        for row in [*each["history"], each["sums"]]:
            row.pop("seconds", None)
    assert facts == other_facts


class Surprise:
    """A loader at whose k-th batch something happens, counted over all epochs.

    Args:
        batches: the real loader.
        at: numbers of the batches, from 1.
        event: called before these batches are handed over.
    """

    def __init__(self, batches: TensorBatches, at: int | set[int], event) -> None:
        self.batches = self.sampler = batches
        self.at = {at} if isinstance(at, int) else at
        self.event = event
        self.count = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self.batches:
            self.count += 1
            if self.count in self.at:
                self.event()
            yield batch
