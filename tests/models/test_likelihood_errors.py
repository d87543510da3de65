"""Data that cannot be right is refused with the argument's name, before anything is computed from it."""

import pytest
import torch
from torch import nn

from l0bayes.errors import DataError, L0BayesError
from l0bayes.models import MLP, Classifier, Regressor

NAN, INF = float("nan"), float("inf")
X = torch.randn(4, 6)
LABELS = torch.tensor([0, 1, 2, 0])


def poisoned(shape, value, *, dtype=torch.float32):
    tensor = torch.zeros(shape, dtype=dtype)
    tensor.view(-1)[-2] = value
    return tensor


@pytest.fixture(name="classifier")
def three_classes():
    return Classifier(MLP(6, 5, 3), 100)


@pytest.fixture(name="regressor")
def two_targets():
    return Regressor(MLP(6, 5, 2), 100)


def test_data_errors_are_value_errors_of_the_library():
    assert issubclass(DataError, (L0BayesError,))
    assert issubclass(DataError, ValueError)


BAD_X = {
    "no rows": (X[:0], "at least one row"),
    "scalar": (torch.tensor(1.0), "at least one row"),
    "a list": ([[0.0] * 6], "list"),
    "nothing": (None, "NoneType"),
    "NaN": (poisoned((4, 6), NAN), r"nan, at \(3, 4\)"),
    "infinite": (poisoned((4, 6), INF), r"inf, at \(3, 4\)"),
    "minus infinite": (poisoned((4, 6), -INF), r"-inf, at \(3, 4\)"),
    "infinite in float64": (poisoned((4, 6), INF, dtype=torch.float64), "finite"),
    "both infinities": (torch.tensor([[INF, -INF, 0, 0, 0, 0]]), "2 values"),
}


@pytest.mark.parametrize("with_target", [True, False])
@pytest.mark.parametrize("name", BAD_X)
def test_inputs(classifier, name, with_target):
    x, message = BAD_X[name]
    with pytest.raises(DataError, match=message) as error:
        classifier(x, LABELS if with_target else None)
    assert str(error.value).startswith("x must be")


def test_finite_inputs_whose_sum_overflows_are_accepted(classifier):
    assert classifier(torch.full((4, 6), 3e38)[:, :6] * torch.tensor([1.0, 1, 0, 0, 0, 0]), LABELS) is LABELS


BAD_LABELS = {
    "float": (LABELS.float(), "float32"),
    "int32": (LABELS.int(), "int32"),
    "bool": (LABELS.bool(), "bool"),
    "too few": (LABELS[:3], r"\(3,\)"),
    "too many": (torch.zeros(5, dtype=torch.int64), r"\(5,\)"),
    "a column": (LABELS[:, None], r"\(4, 1\)"),
    "one-hot": (torch.eye(3)[LABELS], r"\(4, 3\)"),
    "scalar": (torch.tensor(1), r"\(\)"),
    "too large": (torch.tensor([0, 1, 2, 3]), "between 0 and 2.*got 3"),
    "negative": (torch.tensor([0, 1, -1, 2]), "between 0 and 2.*got -1"),
    "the usual -100": (torch.tensor([0, 1, -100, 2]), "got -100"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels(classifier, name):
    y, message = BAD_LABELS[name]
    with pytest.raises(DataError, match=message) as error:
        classifier(X, y)
    assert str(error.value).startswith("y must")


def test_labels_at_both_ends_are_accepted(classifier):
    assert classifier(X, torch.tensor([0, 2, 0, 2])).tolist() == [0, 2, 0, 2]


BAD_TARGETS = {
    "NaN": (poisoned((4, 2), NAN), "finite"),
    "infinite": (poisoned((4, 2), INF), "finite"),
    "another width": (torch.zeros(4, 3), r"\(4, 2\).*\(4, 3\)"),
    "flat": (torch.zeros(4), r"\(4,\)"),
    "broadcastable": (torch.zeros(1, 2), r"\(1, 2\)"),
    "too few": (torch.zeros(3, 2), r"\(3, 2\)"),
    "whole numbers": (torch.zeros(4, 2, dtype=torch.int64), "int64"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_regression_targets(regressor, name):
    y, message = BAD_TARGETS[name]
    with pytest.raises(DataError, match=message) as error:
        regressor(X, y)
    assert str(error.value).startswith("y must")


def test_a_column_of_outputs_against_flat_targets_is_refused():
    # Broadcasting would compare every output with every target.
    with pytest.raises(DataError, match=r"\(4, 1\).*\(4,\)"):
        Regressor(MLP(6, 5, 1), 100)(X, torch.zeros(4))


@pytest.mark.parametrize("model", [Classifier, Regressor])
@pytest.mark.parametrize("y", [[0, 1, 2, 0], "targets", 1], ids=["list", "str", "int"])
def test_targets_that_are_no_tensor(model, y):
    with pytest.raises(DataError, match="y must"):
        model(MLP(6, 5, 3), 100)(X, y)


def test_a_classifier_needs_one_row_of_logits_a_datum():
    net = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    with pytest.raises(DataError):
        Classifier(net, 100)(X, torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("num_data", [0, -1, NAN, 0.5])
@pytest.mark.parametrize("model", [Classifier, Regressor])
def test_number_of_data(model, num_data):
    with pytest.raises(ValueError, match=f"num_data must be.*got {num_data}"):
        model(MLP(6, 5, 3), num_data)


@pytest.mark.parametrize("noise_scale", [0.0, -1.0, NAN, INF])
def test_noise_scale(noise_scale):
    with pytest.raises(ValueError, match=f"noise_scale must be.*got {noise_scale}"):
        Regressor(MLP(6, 5, 3), 10, noise_scale=noise_scale)
