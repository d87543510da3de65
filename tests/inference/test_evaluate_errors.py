"""Batches whose error would be a number without a meaning: what ``evaluate`` and ``validation_loader`` say to them."""

import pytest
import torch
from drawn import fit
from torch import nn
from toy_problem import blobs, loader, pair, state

from l0bayes import sparsify
from l0bayes.errors import DataError
from l0bayes.inference import HardConcreteGuide, evaluate
from l0bayes.models import MLP, Classifier, Regressor

X, Y = blobs()


def regressor():
    model = Regressor(sparsify(MLP(6, 4, 1), torch.zeros(2, 6)), len(X))
    return model, HardConcreteGuide(model)


def dense():
    model = Classifier(MLP(6, 4, 3), len(X))
    return model, HardConcreteGuide(model)


BAD = {
    "a column of classes": (pair, (X, Y[:, None]), r"y must hold one class number per row.*\(50, 1\)"),
    "classes from 1": (pair, (X, Y + 1), "y must be between 0 and 2.*got 3"),
    "a negative class": (pair, (X, Y - 1), "y must be between 0 and 2.*got -1"),
    "classes as floats": (pair, (X, Y.float()), r"int64.*got torch\.float32"),
    "fewer targets": (pair, (X, Y[:10]), r"of shape \(10,\)"),
    "no tensor": (pair, (X, Y.tolist()), "y must be a tensor; got list"),
    "a row of targets": (regressor, (X, torch.zeros(50)), r"output shape \(50, 1\)"),
    "targets that broadcast": (regressor, (X, torch.zeros(50, 50)), r"of shape \(50, 50\)"),
    "targets that are not finite": (regressor, (X, torch.full((50, 1), torch.nan)), "y must be finite"),
    "inputs that are not finite": (pair, (X * torch.inf, Y), "x must be finite"),
    "inputs that are not finite, dense": (dense, (X * torch.inf, Y), "x must be finite"),
    "dense, from 1": (dense, (X, Y + 1), "y must be between 0 and 2"),
    "no rows": (dense, (X[:0], Y[:0]), "x must be a tensor with at least one row"),
    "inputs alone": (pair, (X,), r"must be \(x, y\).*got 1"),
    "weights besides": (pair, (X, Y, torch.ones(50)), r"must be \(x, y\).*got 3"),
    "no tuple": (pair, X, r"must be \(x, y\).*got Tensor"),
    "a mapping": (pair, {"x": X, "y": Y}, r"must be \(x, y\).*got dict"),
}
bad = pytest.mark.parametrize(("make", "batch", "message"), BAD.values(), ids=BAD)


@bad
def test_evaluate_names_the_batch(make, batch, message):
    model, guide = make()
    good = (X, torch.zeros(50, 1) if isinstance(model, Regressor) else Y)
    with pytest.raises(DataError, match=f"loader: in batch 2: .*{message}"):
        evaluate(model, guide, [good, batch])


@bad
def test_fit_refuses_before_it_trains(make, batch, message):
    model, guide = make()
    before, random = state(model, guide), torch.get_rng_state()
    good = (X, torch.zeros(50, 1) if isinstance(model, Regressor) else Y)
    with pytest.raises(DataError, match=f"validation_loader: in batch 1: .*{message}"):
        fit(model, guide, [good], validation_loader=[batch], epochs=1, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in state(model, guide).items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_later_batch_is_named_too():
    with pytest.raises(DataError, match=r"validation_loader: in batch 2: .*y must be between 0 and 2"):
        fit(*pair(), loader(), validation_loader=[(X, Y), (X, Y + 1)], epochs=1, progress=False)


def test_a_look_at_the_validation_data_draws_nothing():
    ends = []
    for validation in (None, loader(shuffle=False)):
        model, guide = pair()
        fit(model, guide, loader(), validation_loader=validation, epochs=2, progress=False)
        ends.append(state(model, guide))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("validation", [iter([(X, Y)]), 3, X[0, 0]], ids=["iterator", "number", "scalar"])
def test_what_cannot_be_gone_through_once_an_epoch(validation):
    with pytest.raises((DataError, TypeError), match="validation_loader must be something to iterate over"):
        fit(*pair(), loader(), validation_loader=validation, epochs=1, progress=False)


class NotALikelihood(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.num_data = model, model.num_data

    def forward(self, x, y=None):
        return self.model(x, y)


def test_a_model_that_knows_no_error():
    """It would be measured by nothing, without a word."""
    model = NotALikelihood(dense()[0])
    guide = HardConcreteGuide(model)
    with pytest.raises(TypeError, match="validation_loader needs a model such as Classifier"):
        fit(model, guide, loader(), validation_loader=loader(), epochs=1, progress=False)
    with pytest.raises(TypeError, match=r"model must be a Likelihood.*; got a module, NotALikelihood"):
        evaluate(model, guide, loader())
