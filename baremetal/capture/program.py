"""The plan as source: one function that does the whole step, to read and to compile.

A plan is a list of calls with nothing left open, so it can be written out. What comes out is the
program that somebody would have written by hand who had all the sizes and all the patience:

    def blocks_forward(threads, arena, bodies, x, qkv_weight, ...):
        # linear: x 192x128, weight 384x128, bias 384 -> out 192x384
        linear = arena + 98304
        run(MATMUL, 24, threads, words_f32((x, qkv_weight, linear, 192, 384, 128, ...)))
        ...

    def step(arena, workspace, fixed_at, bodies_at, threads):
        blocks_forward(threads, arena, bodies, arena + 0, fixed[3], ...)
        blocks_forward(threads, arena, bodies, arena + 786432, fixed[15], ...)

Stretches that repeat (`repeats.py`) become functions: code grows with the number of *different*
layers. What differs between the repetitions, addresses alone, becomes their parameters.

The text holds everything that the machine code depends on but the kernels themselves: sizes,
strides, places in the arena, the order of calls. It holds no address, for these change from
process to process; they come in tables. So its hash is a key under which the compiled step can be
kept on disk (`native.py`), and no other plan can be mistaken for it.
"""

import keyword
import math
import re
import struct
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from baremetal.capture.places import Call, Place, Placer
from baremetal.capture.repeats import Node, Repeat, find_repeats

if TYPE_CHECKING:
    from baremetal.kernels.native.abi import Body

WIDTH = 100
LARGEST_SIZE = 1 << 60  # a word beyond is the bit pattern of a float64, not a size
ARGUMENTS = ("arena", "workspace", "fixed", "bodies", "threads")  # of every function
IMPORTED = ("bits", "inline", "part", "run", "table", "words_f32", "words_f64")
RESERVED = {*ARGUMENTS, *IMPORTED, *keyword.kwlist, "step"}


def write_program(
    calls: Sequence[Call], placer: Placer, name: str, inlined: bool = True
) -> tuple[str, list[int]]:
    """A program that makes these calls: its source, and the addresses of the bodies it calls.

    Args:
        name: of the captured function, for the docstring.
        inlined: small launches become part of the program. False calls the bodies that eager
            execution and replay call, and so gives the same bits.
    """
    writer = _Writer(calls, inlined)
    return writer.program(placer, name), list(writer.addresses.values())


class _Function:
    """One function of the program while it is being written.

    Attributes:
        name: of the function.
        bases: where each of its repetitions begins, as an index into the calls.
        lines: its text so far.
        parameters: the places that differ between repetitions, and what each is called.
        bodies: the bodies that it calls by address.
    """

    def __init__(self, name: str, bases: Sequence[int]) -> None:
        self.name = name
        self.bases = bases
        self.lines: list[str] = []
        self.parameters: dict[tuple[tuple[str, int, int], ...], str] = {}
        self.columns: list[tuple[Place, ...]] = []  # the parameters' places
        self.bodies: dict[str, int] = {}
        self._locals: dict[tuple[str, int, int], str] = {}
        self._taken = set(RESERVED)

    def place(self, places: Sequence[Place]) -> str:
        """The operand that lies at these places, one for each repetition, as an expression."""
        offsets = {place.offset_bytes for place in places}
        if len(offsets) > 1:  # then each is a place of its own
            places = [p._replace(base=p.base + p.offset_bytes, offset_bytes=0) for p in places]
            offsets = {0}
        name = self._name_of(tuple(places))
        offset_bytes = offsets.pop()
        return f"{name} + {offset_bytes}" if offset_bytes else name

    def _name_of(self, places: tuple[Place, ...]) -> str:
        if len({place.where for place in places}) == 1:
            return self._local(places[0])
        keys = tuple(place.key for place in places)
        if keys not in self.parameters:
            self.parameters[keys] = self._free_name(_shared_name([p.name for p in places]))
            self.columns.append(places)
        return self.parameters[keys]

    def _local(self, place: Place) -> str:
        """A name for a place that is the same in every repetition, declared where first used."""
        if place.key not in self._locals:
            name = self._free_name(place.name)
            self._locals[place.key] = name
            self.lines.append(f"{name} = {place.text()}  # {place.note}")
        return self._locals[place.key]

    def _free_name(self, wanted: str) -> str:
        stem = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "operand"
        stem = f"_{stem}" if stem[0].isdigit() else stem
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


class _Writer:
    """Writes a program from its calls."""

    def __init__(self, calls: Sequence[Call], inlined: bool) -> None:
        from baremetal.kernels.native.abi import is_ours
        from baremetal.kernels.native.pool import PARALLEL_FROM

        self._calls = calls
        self._inlined = inlined
        self._parallel_from = PARALLEL_FROM
        self._parts: list[str] = []  # finished functions, those that others call first
        self._names: set[str] = set()
        self._rows: dict[str, int] = {}  # of the table of bodies, by NAME_DTYPE
        self.addresses: dict[int, int] = {}  # of machine code, by row
        self._inline: dict[str, str] = {}  # bodies' keys, by label
        self._labels: dict[str, str] = {}  # of bodies, by key
        self._is_ours = is_ours

    def program(self, placer: Placer, name: str) -> str:
        numbers: dict[tuple, int] = {}
        kinds = [numbers.setdefault(call.kind, len(numbers)) for call in self._calls]
        step = _Function("step", [0])
        self._write(step, find_repeats(kinds))
        head = f'"""The whole of {len(self._calls)} native calls, once."""'
        signature = "def step(arena, workspace, fixed_at, bodies_at, threads):"
        tables = ["fixed, bodies = table(fixed_at), table(bodies_at)"]
        lines = tables + self._preamble(step) + step.lines
        self._parts.append(_function_text(signature, head, lines))
        return "\n\n\n".join([self._header(placer, name), *self._parts]) + "\n"

    # ------------------------------------------------------------ functions

    def _write(self, function: _Function, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if isinstance(node, Repeat):
                self._write_repeat(function, node)
            else:
                self._write_call(function, node)

    def _write_call(self, function: _Function, index: int) -> None:
        """One launch: as it is in the first repetition, with parameters where they differ."""
        same = [self._calls[base + index] for base in function.bases]
        call = same[0]
        words = []
        remark_at = len(function.lines)
        for position, word in enumerate(call.words):
            if isinstance(word, Place):
                words.append(function.place([cast(Place, x.words[position]) for x in same]))
            else:
                words.append(_number(word))
        if call.remark is not None:
            function.lines[remark_at:remark_at] = ["", *_wrapped_comment(call.remark)]
        launch = call.launch
        kind = "f64" if launch.dtype.itemsize == 8 else "f32"
        block = f"words_{kind}(({', '.join(words)}))"
        stem = self._label(launch.body)
        small = launch.items * launch.work < self._parallel_from
        if self._inlined and small and self._is_ours(launch.body):
            self._inline[stem] = launch.body.key
            text = f"{stem}(0, {launch.items}, {block})"
        else:
            key = f"{stem.removesuffix('_body')}_{kind}".upper()
            row = self._rows.setdefault(key, len(self._rows))
            self.addresses[row] = launch.address
            function.bodies[key] = row
            threads = "threads" if launch.items * launch.work >= self._parallel_from else "1"
            text = f"run({key}, {launch.items}, {threads}, {block})"
        function.lines += _wrapped_call(text)

    def _write_repeat(self, function: _Function, repeat: Repeat) -> None:
        """The stretch as a function of its own, and a call of it for every repetition."""
        steps = range(0, repeat.period * repeat.times, repeat.period)
        bases = [base + step for base in function.bases for step in steps]
        inner = _Function(self._part_name(repeat), bases)
        self._write(inner, repeat.body)
        self._finish_part(inner, repeat)
        function.lines += ["", f"# {repeat.times} times the same {repeat.period} calls"]
        count = repeat.times
        for number in range(count):
            expressions = [
                # the column's places in repetition `number`, one for each of our own repetitions
                function.place([column[b * count + number] for b in range(len(function.bases))])
                for column in inner.columns
            ]
            arguments = ", ".join([*ARGUMENTS, *expressions])
            function.lines += _wrapped_call(f"{inner.name}({arguments})")

    def _finish_part(self, function: _Function, repeat: Repeat) -> None:
        names = [*ARGUMENTS, *function.parameters.values()]
        signature = "\n".join(_wrapped_call(f"def {function.name}({', '.join(names)}):"))
        head = f'"""{repeat.period} calls, made {len(function.bases)} times."""'
        body = self._preamble(function) + function.lines
        self._parts.append("@part\n" + _function_text(signature, head, body))

    def _preamble(self, function: _Function) -> list[str]:
        return [f"{key} = bodies[{row}]" for key, row in function.bodies.items()]

    def _part_name(self, repeat: Repeat) -> str:
        """Named after the parameters it uses and the pass it belongs to."""
        calls = self._calls[repeat.start : repeat.start + repeat.period]
        names = [w.name for call in calls for w in call.words if isinstance(w, Place)]
        found = [match for name in names if (match := re.match(r"(\w+)\.\d+\.", name))]
        stem = found[0].group(1) if found else "stretch"
        is_backward = ["backward" in call.kernel for call in calls]
        if any(is_backward):
            ways = "backward" if repeat.times > 1 and not _has_forward(calls) else "both_ways"
        else:
            ways = "forward"
        name = f"{stem}_{ways}"
        number = 1
        while name in self._names:
            number += 1
            name = f"{stem}_{ways}_{number}"
        self._names.add(name)
        return name

    # ------------------------------------------------------------ the top of the file

    def _header(self, placer: Placer, name: str) -> str:
        rows = [
            f"    fixed[{row}]  {_in_docstring(label)}, {note}"
            for row, (label, note) in enumerate(placer.notes)
        ]
        called = _in_docstring(name)
        essay = "\n".join(
            [
                f'"""The captured function `{called}`, written out: {len(self._calls)} calls.',
                "",
                "Generated, to be read; a change here does nothing, for what runs is compiled",
                "from a copy whose name is the hash of its content. A kernel's body is called in",
                "one of two ways:",
                "",
                "    run(BODY, items, threads, words)  by its address, items divided over threads",
                "    some_body(first, end, words)      compiled into this file, where it stands",
                "",
                "words_f32 and words_f64 lay addresses and sizes out in a row, 8 bytes each, for a",
                "body over that type of number; bits(x) is a floating-point number as such a word.",
                "What bodies do, and what their words are:",
                "",
                *self._glossary(),
                "",
                "Operands are addresses: arena + its first byte for what lives within the step,",
                "workspace + byte for what lives within one call, and for what outlives the step",
                "",
                *rows,
                '"""',
            ]
        )
        imports = (
            "from baremetal.kernels.native.program import (\n"
            "    bits, inline, part, run, table, words_f32, words_f64,\n)"
        )
        inlines = [f'{stem} = inline("{key}")' for stem, key in sorted(self._inline.items())]
        return "\n\n".join(filter(None, [essay, imports, "\n".join(inlines)]))

    def _label(self, body: "Body") -> str:
        """What the text calls a body: its name, with a number where two modules have that name."""
        if body.key not in self._labels:
            same = sum(key.endswith(f":{body.name}") for key in self._labels)
            self._labels[body.key] = f"{body.name}_{same + 1}" if same else body.name
        return self._labels[body.key]

    def _glossary(self) -> list[str]:
        """What each body says of itself."""
        bodies = {self._label(call.launch.body): call.launch.body for call in self._calls}
        lines = []
        for name, body in sorted(bodies.items()):
            said = " ".join(str(body.function.__doc__ or "").split())
            lines += textwrap.wrap(
                f"{name}: {said}", WIDTH, initial_indent="    ", subsequent_indent=" " * 8
            )
        return lines


# ---------------------------------------------------------------- text


def _has_forward(calls: Sequence[Call]) -> bool:
    """Whether a stretch looks up tokens: then it holds a whole pass, not only its way back."""
    return any(call.kernel == "embedding" for call in calls)


def _function_text(signature: str, head: str, lines: Sequence[str]) -> str:
    body = textwrap.indent("\n".join([head, *lines]), "    ", lambda line: bool(line.strip()))
    return f"{signature}\n{body}"


def _wrapped_call(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH - 4, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _wrapped_comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH - 4, initial_indent="# ", subsequent_indent="#     ", break_on_hyphens=False
    )


def _in_docstring(text: str) -> str:
    """Somebody's name for something, without what would end the docstring or the line."""
    return re.sub(r'["\\\n]', "_", text)


def _number(word: int) -> str:
    """A word that is no address: a size as it is, a floating-point attribute as its value."""
    if -LARGEST_SIZE < word < LARGEST_SIZE:
        return str(word)
    value = struct.unpack("<d", struct.pack("<q", word))[0]
    return f"bits({value!r})" if math.isfinite(value) else str(word)  # no literal means infinity


def _shared_name(names: Sequence[str]) -> str:
    """What names like blocks.0.mlp.up.weight and blocks.1.mlp.up.weight share after the number."""
    if len(set(names)) == 1:
        return names[0]
    parts = [name.split(".") for name in names]
    if len({len(p) for p in parts}) != 1:
        return names[0]
    differing = [i for i, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    kept = parts[0][max(differing) + 1 :]
    return ".".join(kept) if kept else names[0]
