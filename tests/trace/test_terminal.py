"""The timeline in text: exact drawings, and slices that account for every picosecond."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import BaremetalError
from baremetal.trace import Span, Trace, can_print, supports_colour, timeline
from baremetal.trace.nesting import nest
from baremetal.trace.terminal import category_letters, fill_slices, slice_edges, xterm_colour


class Terminal(io.StringIO):
    """A stream that says it is a terminal, with an encoding of our choice."""

    def __init__(self, encoding="utf-8", tty=True):
        super().__init__()
        self._encoding, self._tty = encoding, tty

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return self._tty


@pytest.fixture
def two_stages():
    trace = Trace()
    trace.add_span("stage 0", "F0", 0, 60, "forward")
    trace.add_span("stage 0", "B0", 80, 80, "backward")
    trace.add_span("stage 1", "F0", 20, 60, "forward")
    trace.add_span("stage 1", "B0", 80, 80, "backward")
    return trace


def test_a_small_pipeline(two_stages):
    assert timeline(two_stages, width=36, colour=False) == "\n".join(
        [
            "stage 0  FFFFFFF..BBBBBBBBB   87.5 %",
            "stage 1  ..FFFFFFFBBBBBBBBB   87.5 %",
            "         0 s         160 ps",
            "F forward  B backward  . idle",
        ]
    )


def test_less_than_half_a_slice_is_a_small_letter():
    trace = Trace()
    trace.add_span("t", "a", 0, 25, "x")
    trace.add_span("t", "a", 40, 19, "x")
    trace.add_span("t", "a", 60, 140, "x")
    # Ten slices of 20 ps: full, a quarter, 19 of 20, and full to the end.
    assert timeline(trace, width=22, colour=False).splitlines()[0] == "t  XxXXXXXXXX   92.0 %"


def test_an_inner_span_takes_its_time_from_the_outer():
    trace = Trace()
    trace.add_span("t", "step", 0, 100, "step")
    trace.add_span("t", "matmul", 20, 40, "blas")
    assert timeline(trace, width=22, colour=False).splitlines()[0] == "t  SSBBBBSSSS  100.0 %"


def test_window_tracks_and_categories_choose_what_is_drawn(two_stages):
    text = timeline(
        two_stages, width=28, colour=False, tracks=["stage 1"], window_ps=(80, 160),
        categories=["backward"],
    )  # fmt: skip
    assert text == "\n".join(
        [
            "stage 1  BBBBBBBBBB  100.0 %",
            "         80.0 ps160 ps",
            "B backward  F forward  . idle",
        ]
    )


def test_blocks_and_colours_on_a_terminal_that_has_them(two_stages, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    first = timeline(two_stages, width=36, stream=Terminal()).splitlines()[0]
    # Okabe and Ito's blue and vermilion, as the nearest of xterm's colours.
    assert first == (
        "stage 0  \x1b[38;5;25m███████\x1b[0m..\x1b[38;5;166m█████████\x1b[0m   87.5 %"
    )
    assert "█" not in timeline(two_stages, width=36, stream=Terminal("cp1252"))
    assert "\x1b[38;5;25mFFFFFFF\x1b[0m" in timeline(two_stages, width=36, stream=Terminal("ascii"))
    assert timeline(two_stages, width=36, stream=Terminal(tty=False)).isascii()
    # Blocks of one colour would not tell categories apart.
    assert timeline(two_stages, width=36, colour=False, blocks=True).isascii()


def test_colour_only_on_a_terminal_and_when_nobody_objects(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert supports_colour(Terminal())
    assert not supports_colour(Terminal(tty=False))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not supports_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not supports_colour(Terminal())


def test_can_print_asks_the_encoding():
    assert can_print("█", Terminal("utf-8"))
    assert can_print("█", Terminal("cp437"))
    assert not can_print("█", Terminal("ascii"))
    assert not can_print("█", Terminal("no-such-encoding"))


def test_letters_are_own_letters_first_and_never_shared():
    letters = category_letters(["forward", "flush", "backward", "bubble", "", "écrire"])
    assert letters == {
        "forward": "F", "flush": "L", "backward": "B", "bubble": "U", "": "A", "écrire": "C",
    }  # fmt: skip
    many = category_letters([f"c{i}" for i in range(30)])
    assert sorted(set(many.values()) - {"#"}) == [chr(65 + i) for i in range(26)]
    assert list(many.values()).count("#") == 4


def test_long_names_keep_both_ends():
    trace = Trace()
    trace.add_span("rank 0 of the first rack/compute stream", "a", 0, 1)
    assert timeline(trace, width=60, colour=False).startswith("rank 0 of t..pute stream  ")


def test_nothing_recorded_and_wrong_requests():
    assert timeline(Trace()) == "(no spans)"
    trace = Trace()
    trace.add_span("t", "a", 5, 0)
    assert timeline(trace, width=22, colour=False).splitlines()[0] == "t  ..........    0.0 %"
    with pytest.raises(BaremetalError, match=r"no track 'x'; this trace has t"):
        timeline(trace, tracks=["x"])
    with pytest.raises(BaremetalError, match="window"):
        timeline(trace, window_ps=(3, 3))


def test_xterm_colours_of_the_cube():
    assert xterm_colour("#000000") == 16
    assert xterm_colour("#FFFFFF") == 231
    assert xterm_colour("#FF0000") == 196
    assert xterm_colour("#D55E00") == 166  # (215, 95, 0)


spans = st.builds(
    Span, st.just("t"), st.just("s"), st.integers(0, 40), st.integers(0, 30), st.sampled_from("ab")
)


@given(st.lists(spans, min_size=1, max_size=8), st.integers(1, 25))
def test_slices_account_for_every_picosecond(some, cells):
    edges = slice_edges(0, 70, cells)
    slices = fill_slices(nest(some), edges)
    # Cell by cell, the slow way: a picosecond belongs to the slice between whose edges it lies.
    for i, piece in enumerate(slices):
        inside = set(range(edges[i], edges[i + 1]))
        busy = {cell for s in some for cell in range(s.start_ps, s.end_ps)} & inside
        assert sum(piece.values()) >= len(busy)
        if len(some) == 1:
            assert sum(piece.values()) == len(busy)


@given(st.integers(1, 69), st.integers(1, 25), st.data())
def test_inside_one_span_slices_stay_exact(cut, cells, data):
    outer = Span("t", "o", 0, 70, "a")
    inner = Span("t", "i", cut, data.draw(st.integers(0, 70 - cut)), "b")
    edges = slice_edges(0, 70, cells)
    slices = fill_slices(nest([outer, inner]), edges)
    assert [sum(piece.values()) for piece in slices] == [
        edges[i + 1] - edges[i] for i in range(cells)
    ]
    assert sum(piece.get("b", 0) for piece in slices) == inner.duration_ps
