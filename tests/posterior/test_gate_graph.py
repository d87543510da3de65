"""The graph of a network with its gates, and what notebooks show of it."""

import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from l0bayes import sparsify
from l0bayes.inference import HardConcreteGuide, Target, TensorBatches, fit
from l0bayes.models import MLP, Classifier, LeNet5
from l0bayes.posterior import gate_graph


@pytest.fixture(scope="module")
def sparse():
    return sparsify(LeNet5(), torch.randn(2, 1, 28, 28))


def test_who_makes_and_who_reads(sparse):
    text = gate_graph(sparse)
    assert text.startswith("flowchart LR\n")
    names = {box: said.split("<br>")[0] for box, said in re.findall(r'(\w+)\(?\["([^"]*)"\]', text)}
    arrows = {(names[one], names[other]) for one, other in re.findall(r"(\w+) --> (\w+)", text)}
    assert arrows == {
        *(("conv1", "conv1.unit"), ("conv1.unit", "conv2"), ("conv2", "conv2.unit"), ("conv2.unit", "fc1")),
        *(("fc1", "fc1.unit"), ("fc1.unit", "fc2")),
    }
    assert 'fc2<br>dense: its features leave the network"]' in text
    assert '(["conv2.unit<br>50 gates"])' in text


def test_graphviz_has_the_same(sparse):
    text = gate_graph(sparse, "graphviz")
    assert text.count(" -> ") == gate_graph(sparse).count(" --> ")
    assert text.count("shape=ellipse") == len(sparse.groups)
    assert text.count("{") == text.count("}") == 1
    with pytest.raises(ValueError, match="format must be"):
        gate_graph(sparse, "svg")


class Cells(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.words = []
        self.feed(text)

    def handle_data(self, data):
        self.words.append(data)


def test_a_notebook_shows_groups_and_reasons(sparse):
    words = Cells(sparse._repr_html_()).words
    assert words[0] == "LeNet5 with 570 gates"
    assert {"conv1.unit", "20", "fc2", "dense", "its features leave the network"} <= set(words)


@pytest.mark.filterwarnings("ignore:epochs=", "ignore:target")
def test_a_notebook_shows_what_a_run_came_to():
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    model = Classifier(sparsify(MLP(6, 8, 3), x[:2]), 40)
    loader = TensorBatches(x, y, 20)
    result = fit(model, HardConcreteGuide(model), loader, epochs=7, target=Target(0.9), progress=False)
    words = Cells(result._repr_html_()).words
    assert (
        words[0]
        == f"7 epochs, gates by evidence; asked 0.9 of the parameters, reached {result.reached[Target(0.9)]:.3g}"
    )
    assert set(result.history.columns) <= set(words)


def test_names_are_escaped():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("<b>", nn.Linear(4, 5))
            self.last = nn.Linear(5, 2)

        def forward(self, x):
            return self.last(getattr(self, "<b>")(x).relu())

    assert "<b>.unit" not in sparsify(Odd(), torch.randn(2, 4))._repr_html_()
