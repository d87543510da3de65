"""The error of a network at its test-time gates, by hand."""

import pytest
import torch
from torch import nn
from toy_problem import blobs, loader, pair

from l0bayes import sparsify
from l0bayes.errors import DataError
from l0bayes.inference import HardConcreteGuide, TensorBatches, evaluate
from l0bayes.models import Classifier, Regressor


class Scores(nn.Linear):
    """A linear layer with given weights and no bias."""

    def __init__(self, weight):
        weight = torch.tensor(weight)
        super().__init__(weight.shape[1], weight.shape[0], bias=False)
        self.weight = nn.Parameter(weight)


X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0], [1.0, 3.0]])


def plain_and_gated(weight, likelihood):
    """The same network without gates, and with gates at 1 and 0.5: the second input counts half."""
    plain = likelihood(Scores(weight), len(X))
    gated = likelihood(sparsify(nn.Sequential(Scores(weight)), X, gates="input"), len(X))
    guide = HardConcreteGuide(gated)
    with torch.no_grad():  # sigmoid(log α) · 1.2 − 0.1 is clamped to 1, and 0.5
        guide.parameter("log_alpha.0.input").copy_(torch.tensor([9.0, 0.0]))
    return (plain, HardConcreteGuide(plain)), (gated, guide)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_classifier(batch_size):
    """Class 1 wins where 1.5 times the second input exceeds the first: of the four rows, in the 2nd and 4th."""
    batches = TensorBatches(X, torch.tensor([0, 1, 0, 0]), batch_size)
    plain, gated = plain_and_gated([[1.0, 0.0], [0.0, 1.5]], Classifier)
    assert evaluate(*plain, batches) == 1 / 4
    assert evaluate(*gated, batches) == 1 / 4
    assert evaluate(*gated, TensorBatches(torch.tensor([[1.0, 1.0]]), torch.tensor([0]), 1)) == 0  # 1 against 0.75
    assert evaluate(*plain, TensorBatches(torch.tensor([[1.0, 1.0]]), torch.tensor([0]), 1)) == 1  # 1 against 1.5


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_regressor(batch_size):
    """Outputs are x₁ + 2 x₂, or x₁ + x₂ with the gates; the targets are 0."""
    batches = TensorBatches(X, torch.zeros(4, 1), batch_size)
    plain, gated = plain_and_gated([[1.0, 2.0]], Regressor)
    assert evaluate(*plain, batches) == pytest.approx((1 + 4 + 25 + 49) / 4)
    assert evaluate(*gated, batches) == pytest.approx((1 + 1 + 16 + 16) / 4)


def test_several_targets_are_averaged():
    plain, _ = plain_and_gated([[1.0, 2.0], [0.0, 0.0]], Regressor)
    assert evaluate(*plain, [(X, torch.zeros(4, 2))]) == pytest.approx((1 + 4 + 25 + 49) / 8)


def test_modes_come_back_and_nothing_is_learned():
    plain, gated = plain_and_gated([[1.0, 0.0], [0.0, 1.5]], Classifier)
    for model, guide in (plain, gated):
        model.train()
        evaluate(model, guide, [(X, torch.tensor([0, 1, 0, 0]))])
        assert all(module.training for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off():
    model = Classifier(nn.Sequential(nn.Dropout(0.99), Scores([[1.0, 0.0], [0.0, 1.5]])), len(X)).train()
    assert evaluate(model, HardConcreteGuide(model), [(X, torch.tensor([0, 1, 0, 0]))]) == 1 / 4


def test_an_empty_loader():
    with pytest.raises(DataError, match="loader is empty"):
        evaluate(*pair(), [])


def test_the_number_of_rows_counts_not_that_of_batches():
    model, guide = pair()
    x, y = blobs()
    errors = {evaluate(model, guide, TensorBatches(x, y, size)) for size in (1, 7, 50)}
    assert len(errors) == 1
    assert errors.pop() == pytest.approx(evaluate(model, guide, loader()))
