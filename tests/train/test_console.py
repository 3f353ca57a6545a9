"""The bar while data are read and encoded: only where it takes long, and never when quiet."""

from baremetal.train import command
from baremetal.train.console import bar_when_slow


def test_the_bar_is_on_stderr_and_only_where_it_takes_long(capsys):
    assert list(bar_when_slow([1, 2], "reading")) == [1, 2]
    assert capsys.readouterr() == ("", "")
    assert list(bar_when_slow([1, 2], "encoding", at_once=True)) == [1, 2]
    shown = capsys.readouterr()
    assert "encoding" in shown.err
    assert shown.out == ""


def test_a_quiet_run_has_no_bar_for_its_data(tiny, monkeypatch):
    used = []

    def bar(items, what, *, at_once=False):
        used.append(what)
        return items

    monkeypatch.setattr(command, "bar_when_slow", bar)
    command.train(tiny, quiet=True)
    assert used == []
    command.train(tiny)
    assert used == ["encoding"]
