"""Subnetworks of widths that suit a device: multiples, or all units; and how often the device is asked for gates."""

import pytest
import torch
from exact_examples import EXAMPLES, gated
from subnetwork_oracle import random_gates
from torch.overrides import TorchFunctionMode

from l0bayes.models import MLP
from l0bayes.sparsify import sparsify

ASKING = ("cpu", "item", "tolist", "nonzero", "__bool__", "__int__", "__float__", "__index__")


class Asked(TorchFunctionMode):
    """Notes what makes a host wait for its device, among the methods and functions of tensors."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ASKING:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def gradients(sparse, gates, x, **how):
    """Outputs, and gradients of gates and parameters, in one step."""
    gates = {name: gate.clone().requires_grad_() for name, gate in gates.items()}
    sparse.zero_grad()
    with sparse.narrowing(**how):
        out = sparse.run(gates, x)
    out.square().sum().backward()
    parameters = {name: p.grad for name, p in sparse.child("net").named_parameters() if p.grad is not None}
    return out.detach(), {name: gate.grad for name, gate in gates.items()}, parameters


@pytest.mark.parametrize("how", [{"round_to": 2}, {"round_to": 8}, {"masked": True}], ids=str)
@pytest.mark.parametrize("kind", EXAMPLES)
def test_outputs_and_gradients_are_those_of_the_subnetwork(kind, how):
    sparse, x = gated(kind), EXAMPLES[kind].data(4)
    sparse.double().eval()
    x = x.double() if x.is_floating_point() else x
    gates = {name: gate.double() for name, gate in random_gates(sparse).items()}
    expected, of_gates, of_parameters = gradients(sparse, gates, x)
    out, gate_grads, parameter_grads = gradients(sparse, gates, x, **how)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    for name, gate in gates.items():  # of closed gates a subnetwork knows nothing
        seen = gate != 0
        torch.testing.assert_close(gate_grads[name][seen], of_gates[name][seen], rtol=1e-8, atol=1e-8)
    for name, grad in of_parameters.items():
        torch.testing.assert_close(parameter_grads[name], grad, rtol=1e-8, atol=1e-8)


def test_widths_are_multiples():
    sparse = sparsify(MLP(40, 30, 20, 3), torch.randn(2, 40), gates="unit")
    gates = {group.name: (torch.arange(group.size) < 11).float() for group in sparse.groups}
    seen = []
    for layer in ("fc1", "fc2"):
        sparse.child("net").get_submodule(layer).register_forward_hook(lambda _m, _x, out: seen.append(out.shape[1]))
    with sparse.narrowing(round_to=8):
        sparse.run(gates, torch.randn(2, 40))
    assert seen == [16, 16]
    sparse.run(gates, torch.randn(2, 40))
    assert seen[2:] == [11, 11]


@pytest.mark.parametrize("kind", ["mlp", "lenet", "wide resnet", "squeeze and excitation"])
def test_the_device_is_asked_for_the_gates_once_a_run(kind):
    sparse, x = gated(kind), EXAMPLES[kind].data(4)
    gates = random_gates(sparse)
    sparse.run(gates, x)  # tables are built by now
    with Asked() as asked:
        sparse.run(gates, x)
    assert asked.names == ["cpu"]


@pytest.mark.parametrize("kind", ["mlp", "lenet", "wide resnet", "squeeze and excitation"])
def test_masked_networks_never_ask(kind):
    sparse, x = gated(kind), EXAMPLES[kind].data(4)
    gates = random_gates(sparse)
    with sparse.narrowing(masked=True):
        sparse.run(gates, x)
        with Asked() as asked:
            sparse.run(gates, x)
    assert asked.names == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masked_networks_run_on_a_gpu_without_waiting():
    sparse, x = gated("wide resnet").cuda(), EXAMPLES["wide resnet"].data(4).cuda()
    gates = {name: gate.cuda() for name, gate in random_gates(sparse).items()}
    with sparse.narrowing(masked=True):
        expected = sparse.run(gates, x)
        torch.cuda.set_sync_debug_mode("error")
        try:
            out = sparse.run(gates, x)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(out, expected)
