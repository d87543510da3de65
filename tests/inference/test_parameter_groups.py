"""Which parameter is trained how: weights decay, gates have a rate of their own."""

from collections import OrderedDict

import pyro
import pyro.distributions as dist
import pytest
import torch
from drawn import fit
from torch import nn
from toy_problem import assert_equal_states, classifier, loader, pair, state

from l0bayes import SpikeAndSlabPrior, sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, parameter_groups
from l0bayes.models import Classifier


def gates_and_slab() -> None:
    pyro.sample("z", SpikeAndSlabPrior(0.5).expand([4]).to_event(1))
    pyro.sample("w", dist.Normal(0.0, 1.0).expand([4]).to_event(1))


def by_name(groups):
    return {group["name"]: group for group in groups}


def ids(parameters):
    return {id(parameter) for parameter in parameters}


def test_weights_and_gates_of_an_elbo_are_apart():
    model, guide = pair()
    groups = by_name(parameter_groups(ClosedFormKL_ELBO()(model, guide), lr=0.1, gate_lr=0.2, weight_decay=0.3))
    assert groups.keys() == {"weights", "gates"}
    assert ids(groups["weights"]["params"]) == ids(model.parameters())
    assert ids(groups["gates"]["params"]) == ids(guide.parameters())
    assert (groups["weights"]["lr"], groups["weights"]["weight_decay"]) == (0.1, 0.3)
    assert (groups["gates"]["lr"], groups["gates"]["weight_decay"]) == (0.2, 0.0)


def test_the_rest_of_a_guide_has_the_weights_rate_and_no_decay():
    guide = HardConcreteGuide(gates_and_slab)
    groups = by_name(parameter_groups(guide, lr=0.1, gate_lr=0.2, weight_decay=0.3))
    assert groups.keys() == {"gates", "variational"}
    names = {id(parameter): name for name, parameter in guide.named_parameters()}
    assert {names[id(p)] for p in groups["gates"]["params"]} == {"log_alpha.z"}
    assert {names[id(p)] for p in groups["variational"]["params"]} == {"loc.w", "log_scale.w"}
    assert (groups["variational"]["lr"], groups["variational"]["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_weight_decay_leaves_gates_alone(optimizer):
    model, guide = pair()
    groups = parameter_groups(ClosedFormKL_ELBO()(model, guide), lr=0.1, gate_lr=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for m in (model, guide) for name, p in m.named_parameters()}
    for parameter in (*model.parameters(), *guide.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    optimizer(groups).step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), (1 - 0.1 * 0.5) * before[name])
    for name, parameter in guide.named_parameters():
        assert torch.equal(parameter, before[name])


def test_frozen_parameters_are_left_out():
    model = classifier()
    frozen = model.parameter("net.net.fc1.weight").requires_grad_(requires_grad=False)
    (group,) = parameter_groups(model)
    assert id(frozen) not in ids(group["params"])
    assert len(group["params"]) == len(list(model.parameters())) - 1


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no trainable parameters"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(requires_grad=False))


@pytest.mark.parametrize(
    "rates",
    [{"lr": 0.0}, {"lr": float("nan")}, {"gate_lr": -1.0}, {"weight_decay": -0.1}, {"weight_decay": float("nan")}],
)
def test_rates_out_of_range(rates):
    with pytest.raises(ValueError, match=f"{next(iter(rates))}={next(iter(rates.values()))}"):
        parameter_groups(nn.Linear(2, 2), **rates)


@pytest.mark.parametrize("name", ["log_alphabet", "my_log_alpha", "location", "log_scales"])
def test_a_name_that_only_contains_that_of_a_gate_is_a_weight(name):
    (group,) = parameter_groups(nn.ModuleDict({name: nn.Linear(2, 2)}))
    assert group["name"] == "weights"


@pytest.mark.parametrize("name", ["loc", "log_alpha"])
def test_a_layer_of_the_network_is_a_weight_whatever_its_name(name):
    """A localisation network, say, that its author calls ``loc``: it decays as the other weights do."""
    net = nn.Sequential(OrderedDict({name: nn.Linear(4, 5), "last": nn.Linear(5, 2)}))
    model = Classifier(sparsify(net, torch.zeros(2, 4)), num_data=10)
    guide = HardConcreteGuide(model)
    groups = by_name(parameter_groups(ClosedFormKL_ELBO()(model, guide)))
    assert ids(groups["weights"]["params"]) == ids(model.parameters())
    assert ids(groups["gates"]["params"]) == ids(guide.parameters())


# -- a user's own optimizer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [{"ema": 0.5}, {"schedule": "cosine"}])
def test_gates_are_told_apart_in_an_optimizer_without_names(option):
    """It does what one on parameter_groups does."""
    ends = []
    for named in (True, False):
        model, guide = pair()
        groups = parameter_groups(nn.ModuleList([model, guide]), lr=0.02, gate_lr=0.1)
        if not named:
            groups = [{key: value for key, value in group.items() if key != "name"} for group in groups]
        fit(model, guide, loader(), epochs=3, optimizer=torch.optim.Adam(groups), progress=False, **option)
        ends.append(state(model, guide))
    assert_equal_states(*ends)


def test_a_group_that_mixes_gates_and_weights_is_refused_where_it_matters():
    model, guide = pair()
    parameters = [*model.parameters(), *guide.parameters()]
    fit(model, guide, loader(), epochs=1, optimizer=torch.optim.Adam(parameters), progress=False)
    with pytest.raises(ValueError, match=r"group 0 mixes gates and other parameters.*parameter_groups"):
        fit(model, guide, loader(), epochs=1, optimizer=torch.optim.Adam(parameters), ema=0.9, progress=False)
