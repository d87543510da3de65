"""Rules of one's own: operations and layers that the library has not heard of."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from l0bayes import sparsify
from l0bayes.extending import add_operation_rule, add_width_rule, move, pointwise
from l0bayes.testing import check_sparsify

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "own_rules.md"


def own_operation(name, function):
    """Tells torch of an operation, whose backward follows from its definition."""
    operation = torch.library.custom_op(f"tests::{name}", function, mutates_args=())

    def keep(ctx, inputs, output):  # noqa: ARG001 (torch names them)
        ctx.save_for_backward(*inputs)

    def backward(ctx, grad):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(function(x), x, grad)[0]

    operation.register_autograd(backward, setup_context=keep)


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x.relu()


def shifted(x: torch.Tensor) -> torch.Tensor:
    return x.roll(1, -1).clone()


class Net(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.first, self.last, self.operation = nn.Linear(5, 7), nn.Linear(7, 3), operation

    def forward(self, x):
        return self.last(getattr(torch.ops.tests, self.operation)(self.first(x)))


X = torch.randn(4, 5)


def test_the_page_runs_and_what_it_builds_is_exact():
    code = "".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    found = {}
    exec(compile(code, str(PAGE), "exec"), found)  # noqa: S102 (the page is ours)
    names = {name: [group.name for group in found[name].groups] for name in ("sparse", "fused", "scaled")}
    assert names == {"sparse": ["first.unit"], "fused": ["first.unit"], "scaled": ["0.unit"]}
    check_sparsify(found["Fused"](), torch.randn(2, 8))
    check_sparsify(nn.Sequential(nn.Linear(8, 16), found["Scale"](16), nn.Linear(16, 2)), torch.randn(2, 8))


def test_without_a_rule_its_features_stay_and_with_one_they_have_gates():
    own_operation("doubled", doubled)
    with pytest.raises(ValueError, match="it passes through doubled"):
        sparsify(Net("doubled"), X)
    add_operation_rule("tests::doubled", pointwise)
    assert [group.size for group in check_sparsify(Net("doubled"), X).groups] == [7]


def test_a_wrong_rule_makes_nothing_wrong():
    own_operation("shifted", shifted)
    add_operation_rule("tests::shifted", pointwise)  # it moves features
    with pytest.raises(ValueError, match=r"first|no layer"):
        sparsify(Net("shifted"), X)


def test_each_operation_has_one_rule_and_a_full_name():
    for name in ("aten::mm", "aten::relu"):
        if name == "aten::mm":
            with pytest.raises(ValueError, match="'aten::mm' has a rule already"):
                add_operation_rule(name, move)
    for name in ("mm", "aten::mm.default", ""):
        with pytest.raises(ValueError, match="a name with a namespace, such as 'mylib::fused_gelu'"):
            add_operation_rule(name, move)


class Wide(nn.Module):
    """A layer that computes by an attribute."""

    def __init__(self, width):
        super().__init__()
        self.width, self.weight = width, nn.Parameter(torch.rand(width))

    def forward(self, x):
        return x.reshape(-1, self.width) * self.weight


class Wider(Wide):
    pass


@pytest.mark.parametrize("kind", [Wide, Wider])
def test_a_layer_that_states_its_width_runs_and_is_compacted_with_another(kind):
    net = nn.Sequential(nn.Linear(5, 7), kind(7), nn.Linear(7, 3))
    if kind is Wide:
        assert [bool(group.padded) for group in sparsify(net, X).groups] == [True]
        add_width_rule(Wide, ["weight"], lambda _, shape: {"width": shape[0]})
    assert [(group.name, group.padded) for group in check_sparsify(net, X).groups] == [("0.unit", None)]
    assert net[1].width == 7


# -- the contract itself ----------------------------------------------------------------------------------------------


def test_the_contract_leaves_the_network_and_random_numbers_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    check_sparsify(net, X)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_it_finds_what_differs(monkeypatch):
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    run = "l0bayes.sparse_module.SparseModule.run"
    original = sparsify(net, X).run.__func__
    monkeypatch.setattr(run, lambda self, *args: original(self, *args) + 1e-6)
    with pytest.raises(AssertionError, match="100% of the gates open: outputs of the subnetwork"):
        check_sparsify(net, X)
    monkeypatch.undo()
    monkeypatch.setattr("l0bayes.testing.compact_network", lambda net, *_: net)
    with pytest.raises(AssertionError, match="of the compacted network"):
        check_sparsify(net, X)


def test_it_finds_gradients_and_costs_that_differ(monkeypatch):
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    original = sparsify(net, X).run.__func__
    frozen = lambda self, gates, *args: original(self, {n: g.detach() for n, g in gates.items()}, *args)  # noqa: E731
    monkeypatch.setattr("l0bayes.sparse_module.SparseModule.run", frozen)
    with pytest.raises(AssertionError, match=r"gradients in '0\.unit' differ"):
        check_sparsify(net, X)
    monkeypatch.undo()
    amount = "l0bayes.code_cost.live_cost.LiveCost.amount"
    monkeypatch.setattr(amount, lambda *_: torch.tensor(1.0))
    with pytest.raises(AssertionError, match="has 66 parameters, and its gates are said to leave 1"):
        check_sparsify(net, X)


@pytest.mark.parametrize("gates", ["unit", "input", "weight"])
def test_every_granularity(gates):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    check_sparsify(net, torch.randn(2, 1, 6, 6), gates)
