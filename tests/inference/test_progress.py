"""What is seen of a run: a bar on a terminal, a line an epoch in a file, nothing wider than 80 columns."""

import io
import re
import sys

import pytest
from drawn import fit
from toy_problem import loader, pair

ROW = re.compile(r"epoch (\d+)/3  drawn  elbo=-?[\d.]+  gates=\d+  error=[\d.]+  [\d.]+ s")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(monkeypatch, stream, **options):
    monkeypatch.setattr(sys, "stderr", stream)
    fit(*pair(), loader(), epochs=3, validation_loader=loader(shuffle=False), **options)
    return stream.getvalue()


def test_a_file_has_a_line_an_epoch(monkeypatch):
    lines = run(monkeypatch, io.StringIO()).splitlines()
    assert [ROW.fullmatch(line)[1] for line in lines] == ["1", "2", "3"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("columns", [50, 80, 200])
def test_a_terminal_has_a_bar_in_one_line(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = run(monkeypatch, Terminal())
    drawn = [part for part in re.split(r"[\r\n]", text) if part.strip()]
    assert "3/3" in drawn[-1]
    assert max(map(len, drawn)) <= min(80, columns)
    assert text.count("\n") == 1


def test_nothing_is_shown_if_nothing_is_asked_for(monkeypatch):
    assert run(monkeypatch, Terminal(), progress=False) == ""
