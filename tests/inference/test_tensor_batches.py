"""Mini-batches in memory."""

import pytest
import torch

from l0bayes.errors import DataError
from l0bayes.inference import TensorBatches

X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 99])
def test_every_row_once_an_epoch(batch_size, shuffle):
    batches = list(TensorBatches(X, Y, batch_size, shuffle=shuffle))
    rows = torch.cat([y for _, y in batches])
    assert torch.equal(rows.sort().values, Y)
    assert all(torch.equal(x, X[y]) for x, y in batches)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 99])
def test_length_is_the_number_of_batches(batch_size):
    batches = TensorBatches(X, Y, batch_size)
    sizes = [len(x) for x, _ in batches]
    assert len(batches) == len(sizes)
    assert set(sizes[:-1]) <= {batch_size}


def test_unshuffled_order_is_that_of_the_data():
    assert torch.equal(torch.cat([y for _, y in TensorBatches(X, Y, 3)]), Y)


def test_order_comes_from_the_global_random_state():
    batches = TensorBatches(X, Y, 3, shuffle=True)
    torch.manual_seed(3)
    first, second = (torch.cat([y for _, y in batches]) for _ in range(2))
    torch.manual_seed(3)
    expected = [torch.randperm(10) for _ in range(2)]
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])
    assert not torch.equal(first, second)


def test_an_unshuffled_epoch_draws_nothing():
    before = torch.get_rng_state()
    list(TensorBatches(X, Y, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_different_lengths():
    with pytest.raises(DataError, match="10 and 9"):
        TensorBatches(X, Y[:9], 3)


def test_no_rows():
    with pytest.raises(DataError, match="at least one row"):
        TensorBatches(X[:0], Y[:0], 3)


def test_not_finite():
    with pytest.raises(DataError, match=r"finite.*\(4, 1\)"):
        TensorBatches(X.clone().index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(torch.nan)), Y, 3)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_out_of_range(batch_size):
    with pytest.raises(ValueError, match=f"batch_size.*{batch_size}"):
        TensorBatches(X, Y, batch_size)
