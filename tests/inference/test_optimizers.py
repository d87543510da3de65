"""One optimizer for the weights and one for the gates act as one."""

import copy

import pytest
import torch
from drawn import fit
from torch import nn
from toy_problem import ROWS, assert_equal_states, blobs, loader, pair, state

from l0bayes.inference import ClosedFormKL_ELBO, FitOptions, HardConcreteGuide, shrink
from l0bayes.inference.training.optimizers import Together, build_optimizer
from l0bayes.models import Classifier


def objective(**options):
    return ClosedFormKL_ELBO()(*pair(**options))


def two(parameters):
    first, second = parameters
    sgd = torch.optim.SGD([first], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    return sgd, torch.optim.Adam([second], lr=0.03, fused=True)


def tensors():
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))


def steps(optimizers, parameters, number, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)


def test_it_takes_the_steps_that_the_two_take_apart():
    together, apart = tensors(), tensors()
    before = [parameter.detach().clone() for parameter in together]
    steps([Together(*two(together))], together, 5)
    steps(two(apart), apart, 5)
    assert_same(together, apart)
    assert not any(torch.equal(a, b) for a, b in zip(together, before, strict=True))


def test_its_state_goes_on_in_another():
    whole, parts = tensors(), tensors()
    steps([Together(*two(whole))], whole, 6, seed=2)
    first = Together(*two(parts))
    generator = torch.Generator().manual_seed(2)
    gradients = [[torch.randn(p.shape, generator=generator) for p in parts] for _ in range(6)]
    second = None
    for number, step in enumerate(gradients):
        if number == 3:
            second = Together(*two(parts))
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        for parameter, gradient in zip(parts, step, strict=True):
            parameter.grad = gradient
        (second or first).step()
    assert_same(whole, parts)


def test_its_state_holds_moments_of_both_and_loads_unchanged():
    parameters = tensors()
    together = Together(*two(parameters))
    steps([together], parameters, 2)
    saved = together.state_dict()
    assert {key for values in saved["state"].values() for key in values} == {
        "momentum_buffer",
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    other = Together(*two(parameters))
    other.load_state_dict(saved)
    again = other.state_dict()
    assert again["param_groups"] == saved["param_groups"]
    for index, values in saved["state"].items():
        for name, value in values.items():
            assert torch.equal(again["state"][index][name], value)


def test_a_rate_changed_in_its_groups_is_felt():
    parameters = tensors()
    before = [parameter.detach().clone() for parameter in parameters]
    together = Together(*two(parameters))
    together.load_state_dict(together.state_dict())
    for group in together.param_groups:
        group["lr"] = 0.0
    steps([together], parameters, 1)
    assert_same(parameters, before)


def test_zero_grad_reaches_all():
    parameters = tensors()
    together = Together(*two(parameters))
    steps([together], parameters, 1)
    together.zero_grad()
    assert all(parameter.grad is None for parameter in parameters)


def test_a_closure_is_called_once():
    parameters = tensors()
    calls = []
    assert Together(*two(parameters)).step(lambda: calls.append(1) or 2.5) == 2.5
    assert calls == [1]


# -- those that the options ask for ----------------------------------------------------------------------------------


def test_adam_is_one_for_everything():
    optimizer = build_optimizer(objective(), FitOptions(lr=0.2, gate_lr=0.3, weight_decay=0.1), ROWS)
    assert type(optimizer) is torch.optim.Adam
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert rates == {"weights": (0.2, 0.1 * ROWS), "gates": (0.3, 0.0)}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weight_decay_is_that_of_the_mean_loss(optimizer):
    """As plain torch has it on the mean of the same losses; 20 steps on a network without gates."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(4, 3), torch.randn(30, 4), torch.randint(3, (30,))
    ours, theirs = Classifier(copy.deepcopy(net), len(x)), net
    settings = {"lr": 0.05, "weight_decay": 0.2}
    fit(ours, HardConcreteGuide(ours), [(x, y)], epochs=20, optimizer=optimizer, progress=False, **settings)
    sgd = {"momentum": 0.9, "nesterov": True} if optimizer == "sgd" else {"eps": 1e-8}
    plain = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](theirs.parameters(), **settings, **sgd)
    for _ in range(20):
        plain.zero_grad()
        torch.nn.functional.cross_entropy(theirs(x), y).backward()
        plain.step()
    for one, other in zip(ours.child("net").parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_sgd_leaves_the_gates_to_adam():
    module = objective()
    options = FitOptions(optimizer="sgd", lr=0.2, gate_lr=0.3, weight_decay=0.1, momentum=0.8)
    optimizer = build_optimizer(module, options, ROWS)
    weights, gates = optimizer.param_groups
    assert (weights["name"], weights["momentum"], weights["nesterov"]) == ("weights", 0.8, True)
    assert weights["lr"] == pytest.approx(0.2 / ROWS)
    assert (gates["name"], gates["lr"], gates["weight_decay"], "betas" in gates) == ("gates", 0.3, 0.0, True)
    numbers = [sum(p.numel() for p in group["params"]) for group in (weights, gates)]
    assert sum(numbers) == sum(parameter.numel() for parameter in module.parameters())


def test_a_network_without_gates_has_sgd_alone():
    optimizer = build_optimizer(nn.Linear(2, 1), FitOptions(optimizer="sgd", momentum=0.0), 10)
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["nesterov"] is False


def test_gates_without_weights_have_adam_alone():
    model, _ = pair()
    guide = HardConcreteGuide(model)
    model.requires_grad_(requires_grad=False)
    optimizer = build_optimizer(nn.ModuleList([model, guide]), FitOptions(optimizer="sgd"), 10)
    assert type(optimizer) is torch.optim.Adam


def one_step(momentum, weight_decay):
    """Parameters before and after one step on all data, and the gradient of the mean loss between them."""
    model, guide = pair()
    with torch.no_grad():
        for log_alpha in guide.parameters():
            log_alpha.fill_(40.0)  # certainly open: nothing is random
    before = state(model)
    loss = ClosedFormKL_ELBO().differentiable_loss(model, guide, *blobs()) / ROWS
    names = [name for name, _ in model.named_parameters()]
    gradients = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    options = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay, "optimizer": "sgd"}
    fit(model, guide, loader(ROWS, shuffle=False), epochs=1, progress=False, **options)
    return before, gradients, state(model)


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_rate_of_sgd_is_that_of_the_mean_loss(momentum, weight_decay):
    """Nesterov's first step is (1 + momentum) times the gradient; the L2 penalty is that of the mean loss too."""
    before, gradients, after = one_step(momentum, weight_decay)
    for name, gradient in gradients.items():
        weight = before[f"0.{name}"]
        expected = weight - 0.1 * (1 + momentum) * (gradient + weight_decay * weight)
        torch.testing.assert_close(after[f"0.{name}"], expected, rtol=1e-5, atol=1e-6)


def test_weight_decay_leaves_gates_alone():
    _, with_decay = pair()
    _, without = pair()
    for guide, weight_decay in ((with_decay, 0.5), (without, 0.0)):
        model, _ = pair()
        fresh = HardConcreteGuide(model, init_open=0.6)
        torch.manual_seed(1)
        options = {"optimizer": "sgd", "lr": 1e-9, "weight_decay": weight_decay}
        fit(model, fresh, loader(), epochs=1, progress=False, **options)
        guide.load_state_dict(fresh.state_dict())
    for one, other in zip(with_decay.parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_run_with_both_resumes(tmp_path):
    ends = []
    for name, stops in (("whole", [4]), ("parts", [2, 4])):
        for epochs in stops:
            model, guide = pair()
            options = {"optimizer": "sgd", "lr": 0.05, "gate_lr": 0.05, "checkpoint": tmp_path / name}
            fit(model, guide, loader(), epochs=epochs, progress=False, **options)
        ends.append(state(model, guide))
    assert_equal_states(*ends)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_shrinking_takes_its_state_along(steps_before):
    module = objective(sizes=(6, 8, 7, 3), gates="unit")
    optimizer = build_optimizer(module, FitOptions(optimizer="sgd"), ROWS)
    model, guide = module.model, module.guide
    for _ in range(steps_before):
        optimizer.zero_grad()
        module(*blobs()).backward()
        optimizer.step()
    with torch.no_grad():
        for log_alpha in guide.parameters():
            log_alpha[:3] = -40.0
    sgd = {p: s["momentum_buffer"].clone() for p, s in optimizer.state.items() if "momentum_buffer" in s}
    old = dict(model.named_parameters())["net.net.fc2.weight"]
    assert shrink(model, guide, optimizer) == {"fc1.unit": 3, "fc2.unit": 3}
    new = dict(model.named_parameters())["net.net.fc2.weight"]
    if steps_before:
        assert torch.equal(optimizer.state[new]["momentum_buffer"], sgd[old][3:, 3:])
    optimizer.zero_grad()
    module(*blobs()).backward()
    before = new.detach().clone()
    optimizer.step()
    assert new.shape == (4, 5)
    assert not torch.equal(new, before)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters()}
