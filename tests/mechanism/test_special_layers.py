"""Layers that are almost, but not quite, ordinary ones."""

import pytest
import torch
from torch import nn

from l0bayes import compact, sparsify
from l0bayes.errors import StructureError
from l0bayes.inference import HardConcreteGuide, predict
from l0bayes.models import MLP, Classifier
from l0bayes.posterior import cost

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))


def half_closed(net, gates="input"):
    model = Classifier(sparsify(net, X[:2], gates=gates), num_data=20)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(4 * torch.randn_like(parameter))
    return model, guide


class Named(nn.Linear):
    """A linear layer of the user's own."""


def test_a_subclass_of_linear_is_compacted_exactly():
    net = nn.Sequential(Named(6, 5), nn.ReLU(), Named(5, 3))
    model, guide = half_closed(net)
    small = compact(model, guide)
    torch.testing.assert_close(small(X), predict(model, guide, X), atol=1e-5, rtol=1e-5)
    assert type(small[0]) is Named


def test_a_compacted_network_can_be_gated_again_where_it_does_not_select():
    model, guide = half_closed(MLP(6, 8, 7, 3))
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.input").copy_(torch.tensor([5.0, -5.0] * 3))
    small = compact(model, guide)
    again = sparsify(small, X[:2], gates="input")
    assert "fc1" in again.structure.dense
    torch.testing.assert_close(
        again.run({group.name: torch.ones(group.size) for group in again.groups}, X), small(X), atol=1e-5, rtol=1e-5
    )


def test_a_bfloat16_network_is_checked_in_float64():
    sparse = sparsify(MLP(64, 30, 10).bfloat16(), torch.randn(2, 64).bfloat16(), gates="input")
    assert [group.size for group in sparse.groups] == [64, 30]


def test_a_layer_named_in_full_is_not_left_dense_unseen():
    with pytest.raises(StructureError, match="'fc3' cannot be gated as asked: its features leave the network"):
        sparsify(MLP(6, 5, 4, 3), X[:2], gates={"fc1": "unit", "fc3": "unit"})


@pytest.mark.parametrize(("example", "problem"), [(X[:0], "at least one row"), (X[:2] * float("nan"), "finite")])
def test_an_example_that_could_show_nothing(example, problem):
    with pytest.raises(StructureError, match=f"example_input must.*{problem}"):
        sparsify(MLP(6, 5, 3), example)


@pytest.mark.parametrize("name", ["code_cost", "inclusion"])
def test_an_option_that_is_no_number(name):
    with pytest.raises(ValueError, match=f"{name} must be a number; got 'a'"):
        sparsify(MLP(6, 5, 3), X[:2], **{name: "a"})


def test_counting_costs_changes_nothing():
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).train()
    before = net[1].running_mean.clone()
    cost(net, X)
    assert torch.equal(net[1].running_mean, before)
    assert net.training


def test_compacting_draws_nothing():
    model, guide = half_closed(MLP(6, 8, 7, 3))
    state = torch.get_rng_state()
    compact(model, guide)
    assert torch.equal(torch.get_rng_state(), state)
