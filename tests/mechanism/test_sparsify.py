"""sparsify: what it leaves alone, and which prior each group gets."""

import copy

import pytest
import torch
from pyro import poutine
from torch import nn

from l0bayes import L0Prior, SpikeAndSlabPrior, sparsify
from l0bayes.errors import StructureError
from l0bayes.masked import masked_forward
from l0bayes.models import MLP, Classifier
from l0bayes.sparsify import find_sparse

X = torch.zeros(2, 6)


def priors(sparse):
    """Group name to the prior of its gates, as the model states it."""
    trace = poutine.trace(sparse.sample_latents).get_trace()
    return {name: site["fn"].base_dist for name, site in trace.iter_stochastic_nodes()}


# -- the user's network ------------------------------------------------------------------------------------


def awkward_network():
    """Mixed training flags, frozen parts, hooks of the user's own, statistics and dropout."""
    net = nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[3].register_forward_hook(lambda _module, _args, _output: None)
    return net


@pytest.mark.parametrize("gates", ["input", {"3": "unit"}])
def test_the_network_is_left_as_it_was(gates):
    net = awkward_network()
    before = copy.deepcopy(net.state_dict())
    flags = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    parameters = [(id(p), p.requires_grad, p.grad) for p in net.parameters()]
    sparse = sparsify(net, torch.randn(8, 6), gates=gates)
    sparse.run({g.name: torch.zeros(g.size) for g in sparse.groups}, torch.randn(8, 6))
    flags_after = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    assert flags == flags_after
    assert parameters == [(id(p), p.requires_grad, p.grad) for p in net.parameters()]
    before.pop("1.num_batches_tracked")
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_random_numbers_are_left_where_they_were():
    net = awkward_network()
    x = torch.randn(8, 6)
    before = torch.get_rng_state()
    sparsify(net, x, gates="input")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_may_be_switched_off_while_it_runs(enabled):
    with torch.set_grad_enabled(enabled):
        assert len(sparsify(MLP(6, 5, 3), X).groups) == 1
        assert torch.is_grad_enabled() is enabled


def test_the_networks_own_parameters_are_trained_and_nothing_is_added():
    net = MLP(6, 5, 3)
    sparse = sparsify(net, X)
    assert sparse.net is net
    assert {id(p) for p in sparse.parameters()} == {id(p) for p in net.parameters()}


def test_no_hook_remains_after_an_error_in_the_network():
    class Breaks(MLP):
        broken = False

        def forward(self, x):
            if self.broken:
                raise KeyError("the user's own error")
            return super().forward(x)

    net = Breaks(6, 5, 3)
    sparse = sparsify(net, X, gates="input")
    gates = {g.name: torch.zeros(g.size) for g in sparse.groups}
    net.broken = True
    with pytest.raises(KeyError, match="own error"):
        sparse.run(gates, X)
    with pytest.raises(KeyError, match="own error"):
        masked_forward(net, sparse.groups, gates, X)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


# -- priors ------------------------------------------------------------------------------------------------


def test_every_gate_pays_for_the_parameters_that_read_its_feature():
    found = priors(sparsify(MLP(6, 5, 4, 3), X, code_cost=0.25, gates="input"))
    assert all(type(prior) is L0Prior for prior in found.values())
    costs = {name: prior.code_cost.tolist() for name, prior in found.items()}
    assert costs == {"fc1.input": [1.25] * 6, "fc2.input": [1.0] * 5, "fc3.input": [0.75] * 4}


def test_the_default_code_cost_is_the_papers():
    (prior,) = priors(sparsify(MLP(6, 5, 3), X)).values()
    torch.testing.assert_close(prior.code_cost, torch.full((5,), 0.3))


def test_inclusion_makes_the_prior_a_spike_and_slab():
    (prior,) = priors(sparsify(MLP(6, 5, 3), X, code_cost=0.5, inclusion=0.2)).values()
    assert type(prior) is SpikeAndSlabPrior
    torch.testing.assert_close(prior.inclusion, torch.full((5,), 0.2))
    torch.testing.assert_close(prior.code_cost, torch.full((5,), 1.5))


def test_options_of_a_pattern_overrule_the_common_ones():
    gates = {
        "fc1": {"gates": "unit", "code_cost": 2.0},
        "fc2": {"gates": "unit", "inclusion": 0.3},
        "*": "unit",
    }
    found = priors(sparsify(MLP(6, 5, 4, 3, 2), X, code_cost=1.0, gates=gates))
    assert type(found["fc1.unit"]) is L0Prior
    assert found["fc1.unit"].code_cost.tolist() == [8.0] * 5
    assert type(found["fc2.unit"]) is SpikeAndSlabPrior
    assert found["fc2.unit"].code_cost.tolist() == [3.0] * 4
    assert type(found["fc3.unit"]) is L0Prior
    assert found["fc3.unit"].code_cost.tolist() == [2.0] * 3


def test_an_option_can_take_the_common_inclusion_back():
    gates = {"fc1": {"gates": "unit", "inclusion": None}, "*": "unit"}
    found = priors(sparsify(MLP(6, 5, 4, 3), X, inclusion=0.5, gates=gates))
    assert [type(prior) for prior in found.values()] == [L0Prior, SpikeAndSlabPrior]


def test_sites_are_named_after_groups_and_drawn_as_one_event():
    sparse = sparsify(MLP(6, 5, 4, 3), X, gates="input")
    trace = poutine.trace(sparse).get_trace(X)
    shapes = {name: (site["fn"].batch_shape, site["fn"].event_shape) for name, site in trace.iter_stochastic_nodes()}
    assert shapes == {"fc1.input": ((), (6,)), "fc2.input": ((), (5,)), "fc3.input": ((), (4,))}


# -- running -----------------------------------------------------------------------------------------------


def test_forward_runs_the_gates_it_draws():
    sparse = sparsify(MLP(6, 5, 3), X, code_cost=0.0)
    x = torch.randn(4, 6)
    trace = poutine.trace(sparse).get_trace(x)
    drawn = {"fc1.unit": trace.nodes["fc1.unit"]["value"]}
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], sparse.run(drawn, x))


@pytest.mark.parametrize("gates", [{}, {"fc1.unit": torch.ones(4)}, {"fc1.unit": torch.ones(2, 5)}])
def test_gates_that_are_missing_or_of_another_shape_are_refused(gates):
    sparse = sparsify(MLP(6, 5, 3), X)
    with pytest.raises(ValueError, match=r"fc1\.unit.*\(5,\)"):
        sparse.run(gates, X)


def test_the_one_sparse_network_of_a_model_is_found():
    sparse = sparsify(MLP(6, 5, 3), X)
    assert find_sparse(Classifier(sparse, 10)) is sparse
    assert find_sparse(sparse) is sparse
    with pytest.raises(StructureError, match="MLP has 0"):
        find_sparse(MLP(6, 5, 3))
    with pytest.raises(StructureError, match="has 2"):
        find_sparse(nn.ModuleList([sparse, sparsify(MLP(6, 5, 3), X)]))


def test_it_prints_its_groups():
    assert "fc1.unit" in repr(sparsify(MLP(6, 5, 3), X))


def test_priors_keep_their_values_in_another_dtype():
    sparse = sparsify(MLP(6, 5, 3), X, code_cost=0.1, inclusion=0.3)
    before = priors(sparse)["fc1.unit"]
    after = priors(sparse.double())["fc1.unit"]
    assert torch.equal(before.code_cost, after.code_cost)
    assert torch.equal(before.inclusion, after.inclusion)
    assert sparse.run({"fc1.unit": torch.ones(5)}, X.double()).dtype == torch.float64


def test_half_precision_networks_run_with_gates_of_single_precision():
    sparse = sparsify(MLP(6, 5, 3), X).to(torch.bfloat16)
    output = sparse.run({"fc1.unit": torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0])}, X.bfloat16())
    assert output.dtype == torch.bfloat16
