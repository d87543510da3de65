"""sparsify: what it leaves alone, and which prior each group gets."""

import copy

import pytest
import torch
from pyro import poutine
from torch import nn

from l0bayes import L0Prior, SpikeAndSlabPrior, sparsify
from l0bayes.distributions import JointL0Prior
from l0bayes.errors import StructureError
from l0bayes.find_sparse import find_sparse
from l0bayes.models import MLP, Classifier
from l0bayes.subnetwork.masked import masked_forward

X = torch.zeros(2, 6)


def priors(sparse):
    """Group name to the prior of its gates, as the model states it, given that all gates are open."""
    opened = {group.name: torch.ones(group.size) for group in sparse.groups}
    trace = poutine.trace(poutine.condition(sparse.sample_latents, opened)).get_trace()
    return {name: trace.nodes[name]["fn"].base_dist for name in opened}


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


class Noisy(MLP):
    """Draws in evaluation too."""

    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x)) + torch.randn(len(x), 1)


@pytest.mark.parametrize("make", [awkward_network, lambda: Noisy(6, 5, 3)])
def test_random_numbers_are_left_where_they_were(make):
    net, x = make(), torch.randn(8, 6)
    before = torch.get_rng_state()
    sparsify(net, x, gates="input")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fast_path_of_attention_is_switched_back(enabled):
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        sparsify(MLP(6, 5, 3), X)
        with pytest.raises(StructureError):
            sparsify(MLP(6, 5, 3), torch.zeros(2, 7))
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_left_as_they_were_though_the_network_writes_into_them(dtype):
    class InPlace(MLP):
        def forward(self, x):
            return super().forward(x.mul_(2.0))

    x = torch.randn(4, 6, dtype=dtype)
    before = x.clone()
    assert len(sparsify(InPlace(6, 5, 3).to(dtype), x).groups) == 1
    assert torch.equal(x, before)


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


def costs(**arguments):
    found = priors(sparsify(MLP(6, 5, 4, 3), X, **arguments))
    return {name: prior.code_cost.tolist() for name, prior in found.items()}


def test_an_open_gate_pays_for_every_parameter_that_lives_by_it():
    (prior,) = priors(sparsify(MLP(6, 5, 3), X)).values()
    assert type(prior) is JointL0Prior
    torch.testing.assert_close(prior.code_cost, torch.full((5,), 0.1 * (6 + 1 + 3)))  # its row, its bias, its column


@pytest.mark.parametrize("gates", ["unit", "input", "weight"])
def test_all_open_gates_pay_for_all_parameters_together(gates):
    decided = {"unit": 30 + 5 + 20 + 4 + 12, "input": 30 + 5 + 20 + 4 + 12, "weight": 30 + 20 + 12}[gates]
    assert sum(map(sum, costs(code_cost=0.25, gates=gates).values())) == pytest.approx(0.25 * decided)


def test_multiply_accumulates_may_be_paid_for_instead():
    assert sum(map(sum, costs(code_cost=0.25, cost="macs").values())) == pytest.approx(0.25 * (30 + 20 + 12))


def test_in_the_papers_accounting_each_gate_pays_for_its_own_weights():
    assert costs(code_cost=0.25, gates="input", cost="paper") == {
        "fc1.input": [1.25] * 6,
        "fc2.input": [1.0] * 5,
        "fc3.input": [0.75] * 4,
    }
    assert costs(code_cost=0.25, cost="paper") == {"fc1.unit": [1.5] * 5, "fc2.unit": [1.25] * 4}
    (prior,) = priors(sparsify(MLP(6, 5, 3), X, cost="paper")).values()
    assert type(prior) is L0Prior


def test_inclusion_makes_the_prior_a_spike_and_slab():
    (prior,) = priors(sparsify(MLP(6, 5, 3), X, code_cost=0.5, inclusion=0.2, cost="paper")).values()
    assert type(prior) is SpikeAndSlabPrior
    torch.testing.assert_close(prior.inclusion, torch.full((5,), 0.2))
    torch.testing.assert_close(prior.code_cost, torch.full((5,), 3.0))
    (joint,) = priors(sparsify(MLP(6, 5, 3), X, code_cost=0.5, inclusion=0.2)).values()
    assert (type(joint), joint.inclusion) == (JointL0Prior, 0.2)
    torch.testing.assert_close(joint.logit_inclusion, torch.full((5,), 0.2).logit() - 5.0)


def test_options_of_a_pattern_overrule_the_common_ones():
    gates = {
        "fc1": {"gates": "unit", "code_cost": 2.0},
        "fc2": {"gates": "unit", "inclusion": 0.3, "init_open": 0.6},
        "*": "unit",
    }
    sparse = sparsify(MLP(6, 5, 4, 3, 2), X, code_cost=1.0, gates=gates, cost="paper")
    found = priors(sparse)
    assert [type(prior) for prior in found.values()] == [L0Prior, SpikeAndSlabPrior, L0Prior]
    expected = {"fc1.unit": [12.0] * 5, "fc2.unit": [5.0] * 4, "fc3.unit": [4.0] * 3}
    assert {name: prior.code_cost.tolist() for name, prior in found.items()} == expected
    assert sparse.init_open == {"fc1.unit": 0.8, "fc2.unit": 0.6, "fc3.unit": 0.8}


def test_the_code_cost_of_a_pattern_is_that_of_the_parameters_of_its_layers():
    gates = {"fc1": {"gates": "unit", "code_cost": 2.0}}
    (prior,) = priors(sparsify(MLP(6, 5, 3), X, code_cost=1.0, gates=gates)).values()
    assert prior.code_cost.tolist() == [2.0 * (6 + 1) + 1.0 * 3] * 5


def test_an_option_can_take_the_common_inclusion_back():
    gates = {"fc1": {"gates": "unit", "inclusion": None}, "*": "unit"}
    found = priors(sparsify(MLP(6, 5, 4, 3), X, inclusion=0.5, gates=gates))
    assert [prior.inclusion for prior in found.values()] == [None, 0.5]


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


def test_it_prints_groups_sizes_and_reasons():
    text = repr(sparsify(MLP(6, 5, 3), X))
    assert [line for line in text.splitlines() if "fc1.unit" in line and " 5 " in line]
    assert [line for line in text.splitlines() if "fc2 " in line and "dense  its features leave the network" in line]


@pytest.mark.parametrize("cost", ["parameters", "macs", "paper"])
def test_priors_keep_their_values_in_another_dtype(cost):
    sparse = sparsify(MLP(6, 5, 3), X, code_cost=0.125, inclusion=0.25, cost=cost)
    before = priors(sparse)["fc1.unit"]
    after = priors(sparse.double())["fc1.unit"]
    assert before.code_cost.tolist() == after.code_cost.tolist()
    torch.testing.assert_close(before.logit_inclusion, after.logit_inclusion, check_dtype=False)
    assert sparse.run({"fc1.unit": torch.ones(5)}, X.double()).dtype == torch.float64


def test_half_precision_networks_run_with_gates_of_single_precision():
    sparse = sparsify(MLP(6, 5, 3), X).to(torch.bfloat16)
    output = sparse.run({"fc1.unit": torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0])}, X.bfloat16())
    assert output.dtype == torch.bfloat16
