"""Units removed in the middle of a run: what is left goes on as the larger run would have."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from drawn import fit
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import cross_entropy

from l0bayes import compact, gate_table, sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, TensorBatches, load, predict, save, shrink
from l0bayes.models import MLP, Classifier, LeNet5, WideResNet

DTYPE = torch.float64


class Normed(nn.Module):
    """A stream with a residual branch, a grouped convolution and a group norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.GroupNorm(4, 12)
        self.branch = nn.Conv2d(12, 12, 3, padding=1, groups=4)
        self.last = nn.Conv2d(12, 8, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return self.fc(self.last(x + self.branch(x)).relu().mean((2, 3)))


NETWORKS = {
    "mlp": (lambda: MLP(12, 10, 8, 3), (12,), "unit"),
    "mlp by inputs": (lambda: MLP(12, 10, 8, 3), (12,), "input"),
    "lenet": (lambda: LeNet5(3), (1, 28, 28), "unit"),
    "lenet by filters and inputs": (lambda: LeNet5(3), (1, 28, 28), {"conv*": "unit", "fc*": "input"}),
    "wide resnet": (lambda: WideResNet(10, 1, 3), (3, 8, 8), "unit"),
    "group norm": (Normed, (3, 6, 6), "unit"),
    "single weights": (lambda: MLP(12, 10, 8, 3), (12,), {"fc1": "unit", "fc2": "weight"}),
}


def build(kind, cost="parameters"):
    """A network whose gates are certainly open or certainly closed, so that two runs draw alike."""
    fresh, shape, gates = NETWORKS[kind]
    torch.manual_seed(0)
    x, y = torch.randn(6, *shape, dtype=DTYPE), torch.randint(3, (6,))
    model = Classifier(sparsify(fresh().to(DTYPE), x[:2], 0.01, gates, cost=cost), num_data=60)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for log_alpha in guide.parameters():
            is_open = torch.rand(log_alpha.shape) < 0.6
            is_open[0] = True
            log_alpha.copy_(torch.where(is_open, 60.0, -60.0))
    return model, guide, x, y


def steps(model, guide, optimizer, x, y, *, number):
    elbo = ClosedFormKL_ELBO()(model, guide)
    losses = []
    for _ in range(number):
        optimizer.zero_grad()
        loss = elbo(x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("cost", ["parameters", "macs", "paper"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_run_goes_on_as_the_larger_one(kind, cost):
    model, guide, x, y = build(kind, cost)
    optimizer = torch.optim.AdamW([*model.parameters(), *guide.parameters()], lr=1e-2, weight_decay=0.1)
    steps(model, guide, optimizer, x, y, number=2)
    larger = copy.deepcopy((model, guide, optimizer.state_dict()))
    model_2, guide_2 = larger[0], larger[1]
    optimizer_2 = torch.optim.AdamW([*model_2.parameters(), *guide_2.parameters()], lr=1e-2, weight_decay=0.1)
    optimizer_2.load_state_dict(larger[2])
    removed = shrink(model, guide, optimizer)
    assert sum(removed.values()) > 0
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, model_2)]
    assert sizes[0] < sizes[1]
    found, wanted = steps(model, guide, optimizer, x, y, number=4), steps(model_2, guide_2, optimizer_2, x, y, number=4)
    # Gates over what others removed go too; their cost by the paper's accounting is a constant.
    constant = wanted[0] - found[0] if cost == "paper" else 0.0
    assert [loss + constant for loss in found] == pytest.approx(wanted, rel=1e-6)  # the KL is in float32
    torch.testing.assert_close(predict(model, guide, x), predict(model_2, guide_2, x), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(compact(model, guide)(x), compact(model_2, guide_2)(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", NETWORKS)
def test_shrinking_twice_is_shrinking_once(kind):
    model, guide, x, _ = build(kind)
    shrink(model, guide)
    first = compact(model, guide)(x)
    assert shrink(model, guide) == {}
    open_gates = {name: z.clone() for name, z in guide.point().items()}
    with torch.no_grad():
        for name, log_alpha in guide.named_parameters():
            if len(log_alpha) > 1 and name.endswith(("unit", "input")):
                log_alpha[-1] = -60.0
    shrink(model, guide)
    assert compact(model, guide)(x).shape == first.shape
    assert sum(map(len, guide.point().values())) <= sum(map(len, open_gates.values()))
    torch.testing.assert_close(predict(model, guide, x), compact(model, guide)(x), rtol=1e-9, atol=1e-10)


def test_units_keep_the_numbers_they_had():
    model, guide, _, _ = build("mlp")
    wanted = guide.log_alpha.fc1.unit.detach() > 0
    shrink(model, guide)
    assert model.net.units["fc1.unit"].tolist() == wanted.nonzero().squeeze(1).tolist()
    table = gate_table(guide)
    assert table[table.site == "fc1.unit"]["index"].tolist() == wanted.nonzero().squeeze(1).tolist()


def test_a_group_keeps_its_min_units():
    torch.manual_seed(0)
    sparse = sparsify(
        MLP(6, 5, 4, 2), torch.randn(2, 6), gates={"fc1": {"gates": "unit", "min_units": 3}, "fc2": "unit"}
    )
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        for log_alpha in guide.parameters():
            log_alpha.copy_(torch.linspace(-50, -40, len(log_alpha)))
    shrink(sparse, guide)
    assert [group.size for group in sparse.groups] == [3, 1]
    assert sparse.units["fc1.unit"].tolist() == [2, 3, 4]


def test_gates_that_are_not_closed_stay():
    model, guide, _, _ = build("lenet")
    with torch.no_grad():
        for log_alpha in guide.parameters():
            log_alpha.zero_()
    assert shrink(model, guide, closed_below=0.5) == {}


@pytest.mark.parametrize("closed_below", [-0.1, 1.0, 2.0])
def test_a_threshold_that_is_no_probability_is_refused(closed_below):
    model, guide, _, _ = build("mlp")
    with pytest.raises(ValueError, match="closed_below"):
        shrink(model, guide, closed_below=closed_below)


def test_a_shrunk_network_compacts_saves_and_loads(tmp_path):
    model, guide, x, _ = build("lenet")
    shrink(model, guide)
    small = compact(model, guide)
    loaded = load(save(small, tmp_path / "small.safetensors"), LeNet5(3).to(DTYPE))
    torch.testing.assert_close(loaded(x), small(x))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("first", ["model", "guide"])
def test_a_shrunk_network_and_its_guide_are_saved_and_loaded(first, kind, tmp_path):
    model, guide, x, _ = build(kind)
    shrink(model, guide)
    paths = {"model": save(model, tmp_path / "model"), "guide": save(guide, tmp_path / "guide")}
    again, guide_again, _, _ = build(kind)
    parts = {"model": again, "guide": guide_again}
    for part in (first, *(parts.keys() - {first})):
        load(paths[part], parts[part])
    assert {name: units.tolist() for name, units in again.net.units.items()} == {
        name: units.tolist() for name, units in model.net.units.items()
    }
    model.eval()
    torch.testing.assert_close(predict(again, guide_again, x), predict(model, guide, x), rtol=0, atol=0)
    assert shrink(again, guide_again) == {}
    ClosedFormKL_ELBO()(again, guide_again)(x, torch.zeros(len(x), dtype=torch.int64)).backward()


class Own(PyroModule):
    """A model whose sites are known only when it has seen data."""

    def __init__(self):
        super().__init__()
        self.net = sparsify(MLP(12, 10, 8, 3), torch.zeros(2, 12))

    def forward(self, x, y=None):
        logits = self.net(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


@pytest.mark.parametrize("shrunk", [False, True])
def test_a_guide_that_waits_for_data_takes_a_state_before(shrunk, tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(6, 12), torch.arange(6) % 3
    model, again = Own(), Own()
    guide, waiting = HardConcreteGuide(model, args=(x, y)), HardConcreteGuide(again)
    if shrunk:
        with torch.no_grad():
            guide.parameter("log_alpha.fc1.unit")[:4] = -60.0
        shrink(model, guide)
    load(save(guide, tmp_path / "guide"), waiting)
    waiting(x, y)
    assert again.net.units["fc1.unit"].tolist() == model.net.units["fc1.unit"].tolist()
    assert {name: value.tolist() for name, value in waiting.named_parameters()} == {
        name: value.tolist() for name, value in guide.named_parameters()
    }


def fitted(tmp_path, epochs, name, **options):
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    y = (x[:, 0] > x[:, 1]).long()  # there is something to learn, or all gates would close
    model = Classifier(sparsify(MLP(6, 20, 12, 2), x[:2], 0.01), num_data=640)
    guide = HardConcreteGuide(model)
    torch.manual_seed(1)
    batches = TensorBatches(x, y, 16, shuffle=True)
    fit(model, guide, batches, epochs=epochs, gate_lr=0.3, checkpoint=tmp_path / name, progress=False, **options)
    return model, guide, x


def test_fit_shrinks_and_resumes(tmp_path):
    model, guide, x = fitted(tmp_path, 12, "whole", shrink_below=0.05)
    assert sum(group.size for group in model.net.groups) < 32
    fitted(tmp_path, 7, "parts", shrink_below=0.05)
    again, guide_again, _ = fitted(tmp_path, 12, "parts", shrink_below=0.05)
    assert [g.size for g in again.net.groups] == [g.size for g in model.net.groups]
    assert torch.equal(predict(again, guide_again, x), predict(model, guide, x))


def test_fit_refuses_a_threshold_that_is_no_probability(tmp_path):
    with pytest.raises(ValueError, match="shrink_below"):
        fitted(tmp_path, 1, "never", shrink_below=1.5)


def test_svi_goes_on_with_a_shrunk_network():
    model, guide, x, y = build("mlp")
    shrink(model, guide)
    elbo = ClosedFormKL_ELBO()(model, guide)
    elbo(x, y).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert cross_entropy(predict(model, guide, x), y).isfinite()


def test_an_optimizer_of_pyro_is_refused_before_anything_is_cut():
    model, guide, _, _ = build("mlp")
    sizes = [group.size for group in model.net.groups]
    with pytest.raises(TypeError, match=r"torch.optim.Optimizer; got PyroOptim"):
        shrink(model, guide, pyro.optim.Adam({"lr": 1e-3}))
    assert [group.size for group in model.net.groups] == sizes


def test_factored_moments_are_narrowed_where_they_have_the_dimension():
    model, guide, x, y = build("mlp")
    objective = ClosedFormKL_ELBO()(model, guide)
    optimizer = torch.optim.Adafactor(objective.parameters(), lr=1e-3)
    for _ in range(2):
        objective(x, y).backward()
        optimizer.step()
        shrink(model, guide, optimizer)
    for parameter, state in optimizer.state.items():
        for moment in (value for value in state.values() if value.dim() == parameter.dim() > 1):
            assert all(m in (1, p) for m, p in zip(moment.shape, parameter.shape, strict=True))
