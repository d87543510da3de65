"""Pictures: each takes an axes and returns it, and draws every gate."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, PathCollection
from posterior_guides import classifier

from l0bayes import gate_table
from l0bayes.inference.command_line.report import write_report
from l0bayes.posterior.pictures import (
    gates_figure,
    plot_frontier,
    plot_gate_image,
    plot_gate_probabilities,
    plot_training,
    plot_training_cost,
    plot_training_size,
)


@pytest.fixture(autouse=True)
def _agg():
    backend = mpl.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture
def table():
    return gate_table(classifier()[1])


@pytest.fixture
def ax():
    return plt.figure().add_subplot()


@pytest.fixture
def history():
    return pd.DataFrame({"epoch": [1.0, 2.0, 3.0], "elbo": [-90.0, -30.0, -10.0], "expected_l0": [18.0, 9.0, 5.0]})


def test_a_bar_a_gate_from_high_to_low(table, ax):
    assert plot_gate_probabilities(table, "fc1.input", ax) is ax
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == sorted(table["p_nonzero"][:4], reverse=True)
    assert ax.get_ylim() == (0, 1)
    assert ax.get_title(loc="left") == "fc1.input: 3 of 4 open"


def test_open_gates_have_another_colour(table, ax):
    plot_gate_probabilities(table, "fc1.input", ax)
    found = [colors.to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert len(set(found[:3])) == 1
    assert found[3] != found[0]


def test_gates_of_pixels_as_an_image(table, ax):
    assert plot_gate_image(table, "fc1.input", (2, 2), ax) is ax
    (image,) = ax.images
    expected = table["p_nonzero"][:4].to_numpy().reshape(2, 2)
    assert np.array_equal(image.get_array(), expected)
    assert image.get_clim() == (0, 1)
    crosses = ax.collections[0].get_offsets()
    assert crosses.tolist() == [[0, 0]]  # the first gate is the closed one


@pytest.mark.parametrize("colorbar", [True, False])
def test_a_scale_beside_the_image(table, ax, colorbar):
    plot_gate_image(table, "fc1.input", (2, 2), ax, colorbar=colorbar)
    assert len(ax.figure.axes) == 1 + colorbar


def test_training(history, ax):
    assert plot_training(history, ax) is ax
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata().tolist() == [90, 30, 10]
    assert ax.figure.axes == [ax]


def test_the_size_of_the_network(history, ax):
    assert plot_training_size(history.assign(open_l0=[18, 8, 4]), ax) is ax
    assert [line.get_ydata().tolist() for line in ax.lines] == [[18, 9, 5], [18, 8, 4]]
    assert ax.get_ylim()[0] == 0
    assert ax.figure.axes == [ax]


def test_costs_are_shares_of_the_first_epochs_on_one_axis(ax):
    rows = pd.DataFrame({"epoch": [1, 2], "expected_macs": [8000, 2000], "seconds": [4.0, 1.0], "steps": [2, 2]})
    assert plot_training_cost(rows, ax) is ax
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1, 0.25], [1, 0.25]]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["expected MACs, from 8,000", "measured step, from 2e+03 ms"]
    assert ax.figure.axes == [ax]


def test_phases_are_told_apart(history, ax):
    plot_training(history.assign(phase=["open", "selecting", "selecting"]), ax)
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [1.5]


def test_training_without_gates(history, ax):
    plot_training(history.drop(columns="expected_l0"), ax)
    assert len(ax.figure.axes) == 1


def test_an_elbo_above_zero_is_visible(history, ax):
    """The density of precise data exceeds 1, and a logarithm has no place for it."""
    plot_training(history.assign(elbo=[-20.0, 5.0, 30.0]), ax)
    ax.figure.canvas.draw()
    places = ax.transData.transform(ax.lines[0].get_xydata())
    assert np.isfinite(places).all()
    box = ax.get_window_extent()
    assert all(box.contains(*place) for place in places)


@pytest.mark.parametrize(
    "draw",
    [
        lambda table, _: plot_gate_probabilities(table, "fc1.input"),
        lambda table, _: plot_gate_image(table, "fc1.input", (2, 2)),
        lambda _, history: plot_training(history),
    ],
    ids=["probabilities", "image", "training"],
)
def test_without_an_axes_there_is_a_new_figure(draw, table, history):
    mine = plt.figure()
    axes = draw(table, history)
    assert axes.figure is not mine
    assert mine.number in plt.get_fignums()
    assert not mine.axes


@pytest.mark.parametrize(("shape", "panels"), [((2, 2), 3), (None, 2)])
def test_all_sites_in_one_figure(table, shape, panels):
    figure = gates_figure(table, "fc1.input", shape)
    drawn = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert len(drawn) == panels
    assert sum(len(axes.patches) for axes in drawn if not axes.images) == 7


def test_a_figure_without_the_image_site(table):
    assert len(gates_figure(table, None, (2, 2)).axes) == 2
    assert len(gates_figure(table, "elsewhere", (2, 2)).axes) == 2


@pytest.mark.parametrize("backend", ["agg", "svg"])
def test_a_report_leaves_figures_and_backend_of_the_user_alone(backend, table, history, tmp_path):
    plt.switch_backend(backend)
    mine = plt.figure()
    write_report(tmp_path, table, history, (2, 2))
    assert plt.get_fignums() == [mine.number]
    assert mpl.get_backend() == backend
    assert (tmp_path / "gates.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def runs():
    return pd.DataFrame({"name": ["a", "b", "a"], "error": [0.01, 0.02, 0.03], "parameters": [9e3, 5e3, 1e3]})


def test_frontier(runs, ax):
    references = pd.DataFrame({"name": ["theirs"], "error": [0.014], "parameters": [2e4]})
    assert plot_frontier(runs, ax=ax, references=references) is ax
    points = [
        np.asarray(collection.get_offsets()).tolist()
        for collection in ax.collections
        if isinstance(collection, PathCollection)
    ]
    assert points == [[[9e3, 1.0], [1e3, 3.0]], [[5e3, 2.0]], [[2e4, pytest.approx(1.4)]]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert [text.get_text() for text in ax.texts] == ["theirs"]
    assert ax.get_xscale() == "log"


def test_labels_of_the_frontier_do_not_overlap(runs, ax):
    places = {"name": ["97-71-33", "408-100-69", "219-214-100"], "error": [0.0140, 0.0141, 0.01405]}
    references = pd.DataFrame(places | {"parameters": [2e3, 2.02e3, 2.01e3]})
    plot_frontier(runs, ax=ax, references=references)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert all(not one.count_overlaps([other for other in boxes if other is not one]) for one in boxes)


def test_a_bar_spans_the_seeds_and_colours_are_as_given(runs, ax):
    assert not any(isinstance(one, LineCollection) for one in plot_frontier(runs).collections)  # of other sizes
    runs = runs.assign(parameters=[9e3, 8e3, 8e3])
    plot_frontier(runs, ax=ax, colours={"a": "#112233"}, legend=False)
    (bar,) = (one for one in ax.collections if isinstance(one, LineCollection))
    assert [point[1] for point in bar.get_segments()[0]] == [1.0, 3.0]
    assert mpl.colors.to_hex(bar.get_color()[0]) == "#112233"
    assert ax.get_legend() is None


def test_frontier_against_another_cost(runs, ax):
    assert plot_frontier(runs.rename(columns={"parameters": "seconds"}), "seconds", ax).get_xlabel() == "seconds"
    with pytest.raises(ValueError, match="runs must have columns name, error and seconds; seconds is missing"):
        plot_frontier(runs, "seconds", ax)
