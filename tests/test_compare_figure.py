"""The picture of the comparison, ``benchmarks/compare_figure.py``."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture
def picture():
    pytest.importorskip("torch_pruning")
    import compare_figure  # noqa: PLC0415 (it needs torch_pruning)

    return compare_figure


def test_every_method_has_a_name_and_a_colour_and_every_task_a_title(picture):
    assert set(picture.COLOURS) == set(picture.METHODS)
    assert len({method.title for method in picture.METHODS.values()}) == len(picture.METHODS)
    assert len(set(picture.COLOURS.values())) == len(picture.METHODS)
    assert set(picture.TITLES) == set(picture.TASKS)


def test_one_bad_method_does_not_hide_the_others(picture):
    errors = {"dense": 29.0, "thin": 32.4, "magnitude": 31.0, "l0bayes": 30.5, "svi": 78.5}
    found = {name: picture.Point([error - 0.2, error + 0.2], 100.0, 0.5) for name, error in errors.items()}
    low, high = picture.limits(found)
    assert 28 < low < 28.8
    assert 32.6 < high < 34


def test_seeds_that_are_there_are_drawn(picture, tmp_path):
    rows = [
        {"method": method, "seed": seed, "test_error": 0.3 + 0.01 * seed, "share": share, "cpu_seconds": 90.0}
        for method, share in (("dense", 1.0), ("l0bayes", 0.5), ("svi", 0.9))
        for seed in range(3)
    ]
    results = {"wrn-16-1-half": {"results": rows, "epochs": 8}, "mlp-8000": {"results": rows[3:], "epochs": 50}}
    figure = picture.figure_of(results)
    figure.savefig(tmp_path / "compare.png")
    errors = figure.axes[2]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        picture.METHODS[name].title for name in ("dense", "l0bayes", "svi")
    ]
    assert sorted(errors.lines[2].get_xdata()) == pytest.approx([30, 31, 32])
    assert [text.get_text() for text in errors.texts if text.get_text().startswith("at")] == ["at 90 %"]
