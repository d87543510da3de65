"""Training finds what there is to find, and moves every parameter at its own rate."""

import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from drawn import fit
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch.utils.data import DataLoader, TensorDataset
from toy_problem import assert_equal_states, blobs, loader, pair, state

from l0bayes import SpikeAndSlabPrior
from l0bayes.inference import HardConcreteGuide, TensorBatches, evaluate
from l0bayes.models import Classifier

ROWS, FEATURES = 100, 6


class GatedRegression(PyroModule):
    """Spike-and-slab regression as a Pyro user writes it, with a noise scale to be estimated."""

    def __init__(self):
        super().__init__()
        self.noise = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x, y=None):
        z = pyro.sample("z", SpikeAndSlabPrior(0.5).expand([FEATURES]).to_event(1))
        w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([FEATURES]).to_event(1))
        with pyro.plate("data", len(x)), poutine.scale(scale=ROWS / len(x)):
            return pyro.sample("y", dist.Normal(x @ (z * w), self.noise), obs=y)


@pytest.fixture(autouse=True)
def _nothing_from_other_tests():
    """Pyro gives a hand-written module what another of its class left in the global store."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def line():
    """Targets that only features 1 and 4 matter for."""
    x = torch.randn(ROWS, FEATURES)
    return x, 2 * x[:, 1] - 1.5 * x[:, 4] + 0.3 * torch.randn(ROWS)


def test_a_classifier_learns():
    model, guide = pair(sizes=(6, 16, 3), init_open=0.8)
    history = fit(model, guide, loader(10), epochs=60, lr=1e-2, gate_lr=5e-2, progress=False).history
    assert evaluate(model, guide, loader()) < 0.05
    assert history["elbo"].iloc[-5:].mean() > history["elbo"].iloc[:5].mean() / 2
    assert history["expected_l0"].iloc[-1] < history["expected_l0"].iloc[0]
    irrelevant = guide.gates()["fc1.input"].prob_nonzero[2:]
    relevant = guide.gates()["fc1.input"].prob_nonzero[:2]
    assert irrelevant.max() < relevant.min()


def test_a_hand_written_model_with_a_guide_that_waits_for_data(line):
    model = GatedRegression()
    guide = HardConcreteGuide(model)
    assert not list(guide.parameters())
    batches = TensorBatches(*line, 25, shuffle=True)
    result = fit(model, guide, batches, epochs=150, lr=2e-2, gate_lr=5e-2, progress=False)
    assert list(result.history.columns) == ["epoch", "phase", "elbo", "seconds", "steps"]
    assert torch.equal(guide.point()["z"] != 0, torch.tensor([0, 1, 0, 0, 1, 0]).bool())
    weights = guide.median()["w"]
    torch.testing.assert_close(weights[[1, 4]], torch.tensor([2.0, -1.5]), atol=0.15, rtol=0)
    assert abs(model.noise.item() - 0.3) < 0.1


def test_setting_up_the_guide_costs_no_randomness(line):
    """The run is the same whether the guide knew the sites before or is shown a batch first."""
    histories = []
    for args in ((), line):
        model = GatedRegression()
        guide = HardConcreteGuide(model, args=args)
        torch.manual_seed(4)
        histories.append(fit(model, guide, TensorBatches(*line, 30, shuffle=True), epochs=2, progress=False).history)
    assert histories[0]["elbo"].equals(histories[1]["elbo"])


def largest_steps(before, *modules):
    return {name: (value - before[name]).abs().max().item() for name, value in state(*modules).items()}


def test_one_step_of_adam_moves_each_group_by_its_rate(line):
    model = GatedRegression()
    guide = HardConcreteGuide(model, args=line)
    before = state(model, guide)
    fit(model, guide, TensorBatches(*line, ROWS), epochs=1, lr=0.003, gate_lr=0.07, progress=False)
    steps = largest_steps(before, model, guide)
    expected = {
        "0.noise_unconstrained": 0.003,
        "1.loc.w": 0.003,
        "1.log_scale.w": 0.003,
        "1.log_alpha.z": 0.07,
    }
    assert steps == pytest.approx(expected, rel=1e-3)


def test_weights_and_gates_of_a_network_move_by_their_rates():
    model, guide = pair(init_open=0.9)
    before = state(model, guide)
    fit(model, guide, loader(50), epochs=1, lr=0.003, gate_lr=0.07, progress=False)
    for name, step in largest_steps(before, model, guide).items():
        assert step == pytest.approx(0.07 if "log_alpha" in name else 0.003, rel=1e-2), name


def test_weight_decay_reaches_the_optimizer():
    first, second = pair(), pair()
    for (model, guide), decay in ((first, 0.0), (second, 10.0)):
        torch.manual_seed(2)
        fit(model, guide, loader(), epochs=10, weight_decay=decay, progress=False)
    assert second[0].parameter("net.net.fc1.weight").norm() < 0.99 * first[0].parameter("net.net.fc1.weight").norm()


def test_an_optimizer_of_ones_own():
    model, guide = pair()
    before = state(model, guide)
    optimizer = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=1e-3, momentum=0.9)
    fit(model, guide, loader(50), epochs=1, optimizer=optimizer, progress=False)
    for parameter in (*model.parameters(), *guide.parameters()):
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], parameter.grad)
    moved = {name for name, step in largest_steps(before, model, guide).items() if step > 0}
    assert moved == before.keys()


def test_a_data_loader_of_torchs_is_as_good():
    batches = DataLoader(TensorDataset(*blobs()), 10, shuffle=True)
    model, guide = pair(sizes=(6, 16, 3), init_open=0.8)
    fit(model, guide, batches, epochs=60, lr=1e-2, gate_lr=5e-2, progress=False)
    assert evaluate(model, guide, batches) < 0.05


def own_pair(line):
    model = GatedRegression()
    return model, HardConcreteGuide(model, args=line)


def run_in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_the_same_seed_gives_the_same_run():
    runs = []
    for _ in range(2):
        model, guide = pair(seed=5)
        result = fit(model, guide, loader(), epochs=3, validation_loader=loader(), progress=False)
        runs.append((result.history.drop(columns="seconds"), state(model, guide)))
    assert runs[0][0].equals(runs[1][0])
    assert_equal_states(runs[0][1], runs[1][1])


@pytest.mark.parametrize("make", [lambda _: pair(), own_pair], ids=["network", "hand-written"])
def test_pyros_setting_for_module_parameters_makes_no_difference(make, line):
    ends = []
    for local in (False, True):
        with pyro.settings.context(module_local_params=local):
            torch.manual_seed(1)
            model, guide = make(line)
            batches = loader() if isinstance(model, Classifier) else TensorBatches(*line, 30)
            fit(model, guide, batches, epochs=2, progress=False)
            ends.append(state(model, guide))
    assert_equal_states(*ends)


def test_in_a_thread_of_its_own():
    """Where Python delivers no signals."""
    ends = []
    for runner in (lambda work: work(), run_in_thread):
        model, guide = pair()
        runner(lambda model=model, guide=guide: fit(model, guide, loader(), epochs=2, progress=False))
        ends.append(state(model, guide))
    assert_equal_states(*ends)


def test_pyros_global_parameters_stay_as_they_are():
    mine = pyro.param("mine", torch.tensor(2.0), constraint=constraints.positive)
    store = pyro.get_param_store()
    before = {name: value.clone() for name, value in store.items()}
    model, guide = pair()
    fit(model, guide, loader(), epochs=1, progress=False)
    own = GatedRegression()
    fit(own, HardConcreteGuide(own), [(torch.zeros(2, 6), torch.zeros(2))], epochs=1, progress=False)
    assert before.keys() == set(store.keys()) >= {"mine"}
    assert all(torch.equal(store[name], value) for name, value in before.items())
    assert torch.equal(mine, pyro.param("mine"))
