"""The program's text and the places in it: what is told apart, and what each thing is called.

Most programs here are written from calls made by hand, which are never compiled.
"""

import gc
import re
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from baremetal import Tensor, ops
from baremetal.autograd.op import owner
from baremetal.capture import capture
from baremetal.capture.places import Call, Place, Placer, label_arrays
from baremetal.capture.program import write_program
from baremetal.kernels.native.abi import address_of
from baremetal.nn import GPT, GPTConfig

F32 = np.dtype(np.float32)


def call(*words, key="tests:scale_body", items=4, work=1, address=1):
    """One native launch of a body that nobody has compiled."""
    function = SimpleNamespace(__doc__="Scales.")
    body = SimpleNamespace(key=key, name=key.split(":")[1], function=function)
    launch = SimpleNamespace(body=body, dtype=F32, items=items, work=work, address=address)
    return Call(launch, words, "scale", "scale")


def written(*calls, inlined=False):
    return write_program(calls, SimpleNamespace(notes=[]), "step", inlined)


def place(name, base=0, buffer=0, region="arena"):
    return Place(region, base, name, "float32 4", buffer)


# ---------------------------------------------------------------- what is told apart


@pytest.mark.parametrize("differ", ["dtype", "size", "kernel"])
def test_launches_that_differ_in_one_thing_are_no_repetition(differ):
    """Equal addresses' places, equal words: what runs, on what type, and how often still counts."""
    pattern = [0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0]

    def step(first, second):
        inputs = Tensor(first), Tensor(second)
        if differ == "kernel":
            return [inputs[0] * 3.0 if bit else inputs[0] + 3.0 for bit in pattern]
        return [inputs[bit] * 3.0 for bit in pattern]

    arrays = [np.arange(7, dtype=np.float32), np.arange(7, dtype=np.float32) + 5]
    if differ == "dtype":
        arrays[1] = arrays[1].astype(np.float64)
    if differ == "size":
        arrays[1] = np.arange(9, dtype=np.float32)
    expected = [one.numpy().copy() for one in step(*arrays)]
    captured = capture(step, level="native-exact")
    captured(*(array + 1 for array in arrays))
    for mine, theirs in zip(captured(*arrays), expected, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs)


def test_calls_are_of_one_kind_if_they_differ_in_addresses_alone():
    one = call(place("a"), 3)
    assert one.kind == call(place("b", 64, buffer=2), 3).kind
    for other in (
        call(place("a"), 4), call(place("a"), 3, items=5), call(place("a"), 3, key="tests:other"),
        call(place("a", region="fixed"), 3), call(place("a"), 3, 3), call(place("a"), 3, work=2),
    ):  # fmt: skip
        assert other.kind != one.kind


def test_rows_of_one_buffer_in_a_stretch_that_repeats():
    """There the operand's offset differs from one repetition to the next, and not its buffer."""

    def step(x):
        rows = Tensor(x) * 2.0
        return [(rows[number] + 1.0) * 3.0 for number in range(6)]

    captured = capture(step, level="native-exact")
    captured(np.zeros((6, 8), np.float32))
    assert "# 6 times the same" in captured.source
    x = np.arange(48, dtype=np.float32).reshape(6, 8)
    np.testing.assert_array_equal([y.numpy() for y in captured(x)], (2 * x + 1) * 3)


def test_two_bodies_of_one_name_are_two():
    a, b = place("a"), place("b", 64)
    text, addresses = written(
        call(a, b, key="tests.one:scale_body", address=11),
        call(b, a, key="tests.other:scale_body", address=12),
    )
    assert addresses == [11, 12]
    assert re.findall(r"^    (SCALE\w*) = bodies\[(\d)\]", text, re.MULTILINE) == [
        ("SCALE_F32", "0"), ("SCALE_BODY_2_F32", "1"),
    ]  # fmt: skip


def test_a_body_from_elsewhere_is_called_and_not_compiled_in():
    """The machine code on disk is kept under a hash that knows the library's bodies alone."""
    text, addresses = written(call(place("a"), 3), inlined=True)
    assert "inline(" not in text.split('"""')[2]
    assert addresses == [1]


def test_an_address_at_the_workspace_s_end_is_none_in_it():
    memory = np.zeros(256, np.uint8)
    placer = Placer(SimpleNamespace(offsets={}), np.zeros(64, np.uint8), memory[:128], {})
    kernel = SimpleNamespace(name="scale", operand_names=lambda count: ())
    launch = SimpleNamespace(operands=(), kernel=kernel)
    assert placer.place(memory[64:96], launch).where == ("workspace", 64)
    assert placer.place(memory[128:160], launch).where == ("fixed", 0)
    # The same address in another size is another array: it may be called something else.
    assert placer.place(memory[128:144], launch).where == ("fixed", 1)
    assert placer.place(memory[128:160], launch).where == ("fixed", 0)


# ---------------------------------------------------------------- what it is called


def test_buffers_at_one_place_have_names_of_their_own():
    """One lies there after the other; the reader is to see which is meant."""
    first, then = place("gelu", 64, buffer=1), place("linear", 64, buffer=2)
    text, _ = written(call(first, 4), call(first, 5), call(then, 4))
    assert "    gelu = arena + 64" in text
    assert text.count("= arena + 64") == 2  # each is declared where it is first used
    assert "    linear = arena + 64" in text


def test_names_that_the_program_needs_itself_are_left_to_it():
    text, _ = written(*(call(place(name, 64 * n)) for n, name in enumerate(["threads", "run"])))
    assert "threads_2 = arena + 0" in text
    assert "run_2 = arena + 64" in text


def test_floating_point_attributes_are_readable():
    for value in (0.5, 1e-5, -3.0, 1e9):
        (word,) = np.array([value]).view(np.int64).tolist()
        assert f"bits({value!r})" in written(call(place("a"), word))[0]
    assert "(a, 4096, -1)" in written(call(place("a"), 4096, -1))[0]


def test_the_first_of_two_names_stays():
    array = np.ones(3)
    labels = label_arrays([("weight", array), ("tied", array), ("half", array[:1])])
    assert labels == {(address_of(array), 24): "weight", (address_of(array), 8): "half"}


@pytest.fixture(scope="module")
def model_step():
    config = GPTConfig(vocab_size=11, context=8, layers=1, heads=2, width=16)
    model = GPT(config, rng=np.random.default_rng(0))

    def step(tokens):
        loss = model.loss(tokens, tokens)
        loss.backward()
        return loss

    captured = capture(step, level="native-exact", fuse=False)
    captured(np.zeros((2, 8), np.int64))
    return captured


def test_a_buffer_is_called_after_the_launch_that_first_touched_it(model_step):
    names = {}
    for one in model_step._native._calls:
        for word in one.words:
            if isinstance(word, Place) and word.region == "arena":
                names.setdefault(word.buffer, set()).add(word.name)
    assert all(len(each) == 1 for each in names.values())
    first = {}  # by buffer
    for launch in model_step.plan.launches:
        roles = launch.kernel.operand_names(len(launch.operands))
        for operand, role in zip(launch.operands, roles, strict=True):
            if operand is not None and operand.buffer is not None:
                suffix = "" if role == "out" else f"_{role}"
                first.setdefault(operand.buffer.number, launch.kernel.name + suffix)
    assert {number: {first[number]} for number in names} == names


def test_a_launch_is_remarked_on_once_however_many_calls_it_makes(model_step):
    remarks = [one.remark for one in model_step._native._calls]
    bound = [packed for _, packed in model_step._replay.bound_launches() if packed]
    assert len(remarks) == sum(map(len, bound)) > len(bound)
    assert sum(remark is not None for remark in remarks) == len(bound)


def test_a_compiled_step_keeps_its_memory_alive_by_itself():
    """Its tables hold bare addresses."""
    captured = capture(lambda x: ops.sum((Tensor(x) * 2.0) + 1.0), level="native")
    captured(np.ones(5, np.float32))
    step, arena = captured._native, weakref.ref(owner(captured._replay.arena))
    del captured
    gc.collect()
    assert arena() is not None
    del step
    gc.collect()
    assert arena() is None
