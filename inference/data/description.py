"""What can be told of training data without going through them: how many, in what batches, and a digest in memory."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from l0bayes.compat import tree_leaves
from l0bayes.inference.data.batches import TensorBatches
from l0bayes.inference.data.loaders import length, parts
from l0bayes.inference.system.digest import tensor_digest


def describe(loader: Any) -> dict[str, Any]:
    """Facts of a loader by name, as JSON holds them; two of the same data, in batches of the same size, have the same.

    Rows that are made when they are asked for, as those of most data sets of torch's are, stay unseen: of them only
    the number and the class of the data set are told.

    Args:
        loader: the batches. Of a list of batches, all tensors count.
    """
    facts: dict[str, Any] = {"number of batches": length(loader)}
    if isinstance(loader, list | tuple):
        facts["digest of the data"] = tensor_digest(_tensors(loader))
    for part in parts(loader):
        if isinstance(part, TensorBatches):
            facts["shuffle"], facts["augment"] = part.shuffle, part.augment is not None
            facts["digest of the data"] = tensor_digest(_tensors([part.x, part.y]))
        if isinstance(part, TensorBatches | DataLoader):
            facts["batch size"] = part.batch_size
        elif isinstance(part, TensorDataset):
            facts["digest of the data"] = tensor_digest(part.tensors)
        elif isinstance(part, Dataset):
            facts["data set"], facts["number of rows"] = type(part).__qualname__, length(part)
        elif isinstance(part, Sampler):
            facts.setdefault("sampler", type(part).__qualname__)
    return facts


def _tensors(batches: Any) -> Iterator[Tensor]:
    return (item for item in tree_leaves(batches) if isinstance(item, Tensor))
