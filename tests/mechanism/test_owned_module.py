"""Modules that own their parameters: names of their own, no sharing through Pyro's store, safe copies."""

import copy
import pickle

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn

from l0bayes import sparsify
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP, Classifier
from l0bayes.owned_module import OwnedModule, parameters_unheard

LOCAL = pytest.mark.parametrize("local", [False, True], ids=["global params", "local params"])


class Owner(OwnedModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)
        self.own = PyroModule()
        self.claim_parameters()

    def forward(self, x):
        self.announce("net")
        return self.child("net")(x)


def announced(function, *args):
    """Name to value of every ``param`` statement."""
    trace = poutine.trace(function, param_only=True).get_trace(*args)
    return {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "param"}


@LOCAL
def test_every_instance_has_a_name_of_its_own(local):
    with pyro.settings.context(module_local_params=local):
        x = torch.zeros(1, 3)
        owners = Owner(), Owner(), copy.deepcopy(Owner()), pickle.loads(pickle.dumps(Owner()))  # noqa: S301
        names = [name for owner in owners for name in announced(owner, x)]
        assert len(names) == len(set(names)) == 8


@LOCAL
def test_what_is_announced_are_the_modules_own_trainable_parameters(local):
    with pyro.settings.context(module_local_params=local):
        owner = Owner()
        owner.net.bias.requires_grad_(False)
        found = announced(owner, torch.zeros(1, 3))
        assert [name.split(".", 1)[1] for name in found] == ["net.weight"]
        (value,) = found.values()
        assert value is owner.net.weight
        assert value.unconstrained() is owner.net.weight


def test_nothing_is_announced_where_nobody_listens():
    before = set(pyro.get_param_store().keys())
    owner = Owner()
    owner(torch.zeros(1, 3))
    assert set(pyro.get_param_store().keys()) == before


def test_unheard_parameters_are_heard_by_handlers_outside():
    owner, x = Owner(), torch.zeros(1, 3)

    def quiet():
        with parameters_unheard():
            inner.update(announced(owner, x))

    inner: dict = {}
    quiet()
    assert inner == {}
    assert len(announced(quiet)) == 2


def test_child_and_parameter_are_read_without_statements():
    owner = Owner()
    found = announced(lambda: (owner.child("net"), owner.parameter("net.weight")))
    assert found == {}
    assert owner.parameter("net.weight") is owner.net.weight


def test_a_copy_does_not_share_tensors():
    owner = Owner()
    for other in (copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):  # noqa: S301
        assert torch.equal(other.net.weight, owner.net.weight)
        with torch.no_grad():
            other.net.weight.add_(1.0)
        assert not torch.equal(other.net.weight, owner.net.weight)


@LOCAL
def test_it_can_be_pickled_and_copied_after_it_was_announced(local):
    # Pyro leaves weak references on parameters, which pickle refuses.
    with pyro.settings.context(module_local_params=local):
        owner = Owner()
        announced(owner, torch.zeros(1, 3))
        copied = pickle.loads(pickle.dumps(owner))  # noqa: S301
        assert torch.equal(copied.net.weight, owner.net.weight)
        announced(owner, torch.zeros(1, 3))
        assert torch.equal(copy.deepcopy(owner.net).weight, owner.net.weight)
        assert pickle.loads(pickle.dumps(owner.state_dict())).keys() == owner.state_dict().keys()  # noqa: S301


@LOCAL
@pytest.mark.parametrize("how", ["load_state_dict", "new parameter", "new layer"])
def test_a_parameter_that_was_replaced_is_announced_as_it_is_now(local, how):
    with pyro.settings.context(module_local_params=local):
        owner, x = Owner(), torch.zeros(1, 3)
        announced(owner, x)
        if how == "load_state_dict":
            owner.load_state_dict({k: v.clone() for k, v in owner.state_dict().items()}, assign=True)
        elif how == "new parameter":
            owner.net.weight = nn.Parameter(torch.zeros(2, 3))
        else:
            owner.net = nn.Linear(3, 2)
        assert {id(p) for p in announced(owner, x).values()} == {id(p) for p in owner.net.parameters()}


@LOCAL
def test_a_sparse_network_may_run_alone_before_a_likelihood_takes_it(local):
    with pyro.settings.context(module_local_params=local):
        sparse = sparsify(MLP(6, 5, 3), torch.zeros(2, 6))
        x = torch.randn(4, 6)
        sparse(x)
        for model in (Classifier(sparse, 10), Classifier(sparse, 20)):
            assert {id(p) for p in announced(model, x).values()} == {id(p) for p in sparse.net.parameters()}


@LOCAL
def test_a_cleared_param_store_does_no_harm(local):
    with pyro.settings.context(module_local_params=local):
        owner, x = Owner(), torch.zeros(1, 3)
        first = announced(owner, x)
        pyro.clear_param_store()
        assert {name: id(p) for name, p in announced(owner, x).items()} == {n: id(p) for n, p in first.items()}


@LOCAL
def test_svi_trains_weights_that_have_their_channels_last(local):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    x, y = torch.randn(4, 3, 6, 6), torch.zeros(4, dtype=torch.long)
    before = net[0].weight.detach().clone()
    with pyro.settings.context(module_local_params=local), pyro.get_param_store().scope():
        model = Classifier(sparsify(net, x), num_data=4).to(memory_format=torch.channels_last)
        guide = HardConcreteGuide(model)
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step(x, y)
    assert not torch.allclose(net[0].weight, before)
