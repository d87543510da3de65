"""Pictures of inclusion probabilities, sizes, filters and agreement: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from posterior_guides import classifier
from torch import nn

from l0bayes import compact, gate_table
from l0bayes.models import LeNet5
from l0bayes.posterior.pictures import (
    plot_agreement,
    plot_filters,
    plot_inclusion,
    plot_inclusion_agreement,
    plot_model_size,
)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


ESTIMATES = {"exact": [0.1, 0.9, 0.5], "mean field": np.array([0.2, 1.0, 0.4]), "other": (0.0, 0.3, 0.2)}


def test_inclusion():
    ax = plot_inclusion(ESTIMATES, ["age", "bmi", "bp"])
    assert [bar.get_height() for bar in ax.patches] == ESTIMATES["exact"]
    dots = [line.get_ydata() for line in ax.lines[:2]]
    np.testing.assert_allclose(dots, [ESTIMATES["mean field"], ESTIMATES["other"]])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["age", "bmi", "bp"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mean field", "other", "exact"]
    given = plt.subplots()[1]
    assert plot_inclusion(ESTIMATES, ax=given) is given


def test_one_estimate_against_another():
    ax = plot_inclusion_agreement(ESTIMATES["exact"], ESTIMATES["mean field"], labels=("exact", "mean field"))
    np.testing.assert_allclose(ax.lines[1].get_xydata(), np.c_[ESTIMATES["exact"], ESTIMATES["mean field"]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("exact", "mean field")
    assert "0.10" in ax.get_title(loc="left")


@pytest.mark.parametrize(
    ("estimates", "names", "message"),
    [
        ({}, None, "estimates must be vectors of one length"),
        ({"a": [0.1], "b": [0.1, 0.2]}, None, "estimates must be vectors of one length"),
        ({"a": [0.1, 1.5]}, None, "'a' goes from 0.1 to 1.5"),
        ({"a": [0.1, 0.5]}, ["x"], "names: 1 for 2 probabilities"),
    ],
)
def test_estimates_that_are_none(estimates, names, message):
    with pytest.raises(ValueError, match=message):
        plot_inclusion(estimates, names)


def test_model_sizes():
    ax = plot_model_size({"exact": [0.2, 0.5, 0.3, 0.0], "other": [0.1, 0.1, 0.1, 0.7]})
    assert ax.lines[0].get_ydata().tolist() == [0.2, 0.5, 0.3, 0.0]
    assert len(ax.get_legend().get_texts()) == 2
    assert plot_model_size([0.5, 0.5]).get_legend() is None
    with pytest.raises(ValueError, match=r"that sum to 1; got a sum of 0.9"):
        plot_model_size([0.5, 0.4])


def test_filters_of_a_convolution():
    net = LeNet5()
    ax = plot_filters(net)
    sheet = ax.images[0].get_array()
    assert sheet.shape == (4 * 6 - 1, 5 * 6 - 1)  # 20 filters of 5 × 5, a line between them
    first = net.conv1.weight.detach()[0, 0].numpy()
    np.testing.assert_allclose(sheet[:5, :5], first / np.abs(first).max(), rtol=1e-6)


def test_filters_of_a_compacted_network_have_blanks():
    model, guide = classifier()  # of 4 inputs, the first closed for certain
    with torch.no_grad():
        guide.parameter("log_alpha.fc2.input").fill_(20.0)
    small = compact(model, guide)
    sheet = plot_filters(small, (2, 2)).images[0].get_array()
    kept = small.fc1.index.tolist()
    assert kept == [1, 2, 3]
    drawn = np.isfinite(np.ma.filled(sheet, np.nan)[:2, :2])
    assert drawn.tolist() == [[False, True], [True, True]]
    assert len(plot_filters(small, (2, 2), most=2).patches) == 2


def test_filters_that_are_no_images():
    with pytest.raises(ValueError, match="the first layer reads 6 numbers; say which image they are, got None"):
        plot_filters(nn.Linear(6, 2))
    with pytest.raises(ValueError, match="ReLU has no layer with a matrix of weights"):
        plot_filters(nn.ReLU())
    with pytest.raises(ValueError, match="must be of images, or a matrix"):
        plot_filters(torch.zeros(2, 3, 4))


def test_agreement_as_a_map():
    guides = {name: classifier()[1] for name in "abc"}
    with torch.no_grad():
        guides["c"].parameter("log_alpha.fc1.input").copy_(torch.tensor([20.0, 20.0, -20.0, 20.0]))
    pairs = gate_table(guides)
    ax = plot_agreement(pairs, "agreement", site="fc1.input")
    matrix = ax.images[0].get_array()
    row = pairs[(pairs["first"] == "a") & (pairs["second"] == "c") & (pairs["site"] == "fc1.input")]
    np.testing.assert_allclose(matrix, matrix.T)
    assert matrix[0, 1] == 1
    assert matrix[0, 2] == pytest.approx(row["agreement"].item())
    assert [label.get_text() for label in ax.get_xticklabels()] == list("abc")
    with pytest.raises(ValueError, match="value must be one of overlap, agreement, rank_correlation; got 'iou'"):
        plot_agreement(pairs, "iou")
    with pytest.raises(ValueError, match="site must be one of"):
        plot_agreement(pairs, site="fc9")
