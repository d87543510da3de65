"""Training through torch.compile: the same numbers, and only where the network keeps its shape."""

import shutil
import subprocess
import sys

import pytest
import torch
from drawn import fit
from torch import nn
from toy_problem import ROWS, blobs, loader, pair

from l0bayes import inference
from l0bayes.inference import HardConcreteGuide, Target, TensorBatches
from l0bayes.models import MLP, Classifier, LeNet5

# Dynamo's word on Python 3.13.0, whose remedy is 3.13.1.
pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower on Python:RuntimeWarning")


@pytest.fixture
def traced(monkeypatch):
    """Compiles without a C++ compiler, and collects the graphs."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: plain(function, backend=backend))
    yield graphs
    torch.compiler.reset()


def run(**options):
    model, guide = pair()
    options = {"epochs": 2, "fine_tune": 3, "lr": 1e-2, "gate_lr": 0.1, "progress": False} | options
    batches = TensorBatches(*blobs(), 25, shuffle=True)
    history = fit(model, guide, batches, validation_loader=loader(), **options).history
    return model, history


def test_fine_tuning_gives_the_same_network(traced):
    (plain, history), (compiled, other) = run(), run(compile=True)
    assert len(traced) == 1
    for one, two in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(history["elbo"]), torch.tensor(other["elbo"]), rtol=1e-4, atol=1e-4)


def test_drawn_gates_are_not_compiled(traced):
    run(compile=True, fine_tune=0)
    assert traced == []


def test_a_dense_network_is_compiled_in_training_alone(traced):
    torch.manual_seed(0)
    model = Classifier(MLP(6, 5, 3), ROWS)
    fit(model, HardConcreteGuide(model), loader(25), validation_loader=loader(), epochs=2, compile=True, progress=False)
    assert len(traced) == 1
    assert model.child("net")._compiled_call_impl is None


@pytest.mark.usefixtures("traced")
def test_the_network_is_plain_again_after_a_failure():
    model, guide = pair()
    batches = [blobs(), (torch.full((4, 6), torch.nan), torch.zeros(4, dtype=torch.int64))]
    with pytest.raises(Exception, match="finite"):
        fit(model, guide, batches, epochs=1, fine_tune=1, compile=True, progress=False)
    assert model.net.child("net")._compiled_call_impl is None


def test_a_model_without_a_network_is_refused():
    class Own(nn.Linear):
        def forward(self, x, y=None):
            """Nothing to compile here."""

    with pytest.raises(ValueError, match="compile needs a network in a model such as Classifier; got Own"):
        fit(Own(1, 1), nn.Module(), loader(), epochs=1, compile=True, progress=False)


def test_convolutions(traced):
    x, y = torch.rand(8, 1, 28, 28), torch.arange(8)
    ends = []
    for compile_ in (False, True):
        torch.manual_seed(0)
        model = Classifier(LeNet5(), 8)
        fit(model, HardConcreteGuide(model), [(x, y)], epochs=2, compile=compile_, progress=False)
        ends.append(model.child("net")(x).detach())
    torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-4)
    assert len(traced) == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own, while it compiles
def test_inductor_trains_what_eager_trains(tmp_path, monkeypatch):
    """The whole way: open, selecting, and finishing on the compacted network, in code that was generated and built."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    ends = []
    for compiled in (False, True):
        model, guide = pair(init_open=0.9)
        batches = TensorBatches(*blobs(), 25, shuffle=True)
        options = {"target": Target(0.6), "epochs": 12, "lr": 1e-2, "progress": False, "compile": compiled}
        history = inference.fit(model, guide, batches, **options).history
        ends.append((history, [parameter.detach().clone() for parameter in model.parameters()]))
    torch.compiler.reset()
    torch.testing.assert_close(torch.tensor(ends[1][0]["elbo"]), torch.tensor(ends[0][0]["elbo"]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=1e-3, atol=1e-4)
    assert list(tmp_path.rglob("*.so"))


LEFT = """
import functools, torch
torch.compile = functools.partial(torch.compile, backend="eager")
from l0bayes.inference import HardConcreteGuide, TensorBatches, fit
from l0bayes.models import MLP, Classifier
x, y = torch.randn(20, 4), torch.zeros(20).long()
model = Classifier(MLP(4, 3, 2), num_data=20)
fit(model, HardConcreteGuide(model), TensorBatches(x, y, 10), epochs=1, compile=True, progress=False)
torch.distributions.Normal(0.0, -1.0)
"""


def test_distributions_go_on_checking_their_arguments():
    """The compiler turns that off, once a process."""
    done = subprocess.run([sys.executable, "-c", LEFT], check=False, capture_output=True, text=True, timeout=200)  # noqa: S603
    assert "Expected parameter scale" in done.stderr
