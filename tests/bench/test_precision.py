"""The comparison of precisions: what is counted, what is drawn, what is printed."""

import dataclasses
import json

import numpy as np
import pytest

from baremetal.bench.precision import compare
from baremetal.bench.precision.accounting import account_for
from baremetal.bench.precision.rates import BY_BITS, bits_of
from baremetal.bench.precision.report import precision_figure, precision_table
from baremetal.cli import main
from baremetal.errors import BaremetalError
from baremetal.train.config import TrainConfig
from baremetal.train.trainer import Trainer

TEXT = "".join(f"the {n} quick brown foxes jump over {n % 7} lazy dogs.\n" for n in range(120))
LAYERS, WIDTH, TOKENS = 3, 32, 4 * 16


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "foxes.txt"
    path.write_text(TEXT, encoding="utf-8")
    return TrainConfig(
        data=str(path), layers=LAYERS, heads=2, width=WIDTH, context=16, batch=4, eval_batches=2,
        fuse="none",
    )  # fmt: skip


def account_of(base, precision):
    trainer = Trainer(dataclasses.replace(base, precision=precision))
    trainer.train_step()
    return account_for(trainer.captured.plan), trainer.data.tokenizer.vocab_size


def shapes():
    """(rows of the weight, columns) of the linear layers in a block."""
    return [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]


# Bytes of a matrix (rows, columns) in storage, written down apart from `Storage.size_bytes`.
SIZES = {
    "float32": lambda r, c: 4 * r * c,
    "bf16": lambda r, c: 2 * r * c,
    "fp8": lambda r, c: r * c + 4,
    "nvfp4 row": lambda r, c: r * c // 2 + r * c // 16 + 4,
    "nvfp4 square": lambda r, c: r * c // 2 + (r // 16) * (c // 16) + 4,
}


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp8", "nvfp4"])
def test_bytes_and_flops_are_those_of_the_formulas(base, precision):
    account, vocab = account_of(base, precision)
    expected = dict.fromkeys(("weights", "activations", "gradients"), 0)
    flops = {}
    for layer in range(LAYERS):
        kind = "bf16" if precision == "nvfp4" and layer in (0, LAYERS - 1) else precision
        row = SIZES["nvfp4 row" if kind == "nvfp4" else kind]
        square = SIZES["nvfp4 square" if kind == "nvfp4" else kind]
        bits = {"float32": 32, "bf16": 16, "fp8": 8, "nvfp4": 4}[kind]
        for n, k in shapes():
            expected["weights"] += 2 * square(n, k) + 4 * n  # forward, dx; the bias in float32
            expected["activations"] += 2 * row(TOKENS, k)  # forward, dW
            expected["gradients"] += 2 * row(TOKENS, n)  # dx, dW
            # Three products, and an addition of the bias.
            flops[bits] = flops.get(bits, 0) + 3 * 2 * TOKENS * n * k + TOKENS * n
    # The output matrix, in float32 and without a bias.
    expected["weights"] += 2 * 4 * vocab * WIDTH
    expected["activations"] += 2 * 4 * TOKENS * WIDTH
    expected["gradients"] += 2 * 4 * TOKENS * vocab
    flops[32] = flops.get(32, 0) + 3 * 2 * TOKENS * vocab * WIDTH
    assert account.read_bytes == expected
    assert account.flops == flops
    seconds = sum(count / BY_BITS[bits] for bits, count in flops.items())
    assert account.least_time_s() == pytest.approx(seconds)
    assert sum(account.share(bits) for bits in BY_BITS) == pytest.approx(1.0)


def test_in_float32_the_account_is_the_sum_of_the_kernels_costs(base):
    """Bytes read and written, and what a product that adds to its result reads of it again."""
    trainer = Trainer(base)
    trainer.train_step()
    plan = trainer.captured.plan
    products = [x for x in plan.launches if x.kernel.name in ("matmul", "linear")]
    again = sum(
        4 * int(np.prod(x.operands[-1].shape)) for x in products if x.attributes.get("beta")
    )
    account = account_for(plan)
    moved = sum(account.read_bytes.values()) + account.written_bytes + again
    assert moved == sum(x.cost.size_bytes for x in products)
    assert sum(account.flops.values()) == sum(x.cost.flops for x in products)


def test_a_fused_plan_is_refused(base):
    with pytest.raises(BaremetalError, match="fuse='none'"):
        account_of(dataclasses.replace(base, fuse="all", width=64, batch=8, context=32), "bf16")


def test_the_widest_operand_decides():
    assert bits_of("float8_e4m3fn", "float8_e5m2") == 8
    assert bits_of("float4_e2m1fn", "bfloat16") == 16
    assert bits_of("float8_e4m3fn", "float32") == 32


def test_all_start_from_the_same_model_and_differ_by_rounding(base):
    seen = []
    result = compare.compare_precisions(
        ["bf16", "fp8", "bf16"], steps=4, base=base,
        on_step=lambda name, report: seen.append((name, report.step)),
    )  # fmt: skip
    names = ["float32", "bf16", "fp8"]
    assert seen == [(name, step) for name in names for step in (1, 2, 3, 4)]
    assert [row["precision"] for row in result["rows"]] == names
    first = [result["curves"][name][0] for name in names]
    assert len(set(first)) == 3
    assert np.ptp(first) < 0.02
    assert result["rows"][0]["val_difference"] == 0.0
    times = [row["product_time"] for row in result["rows"]]
    assert times[0] == 1.0 > times[1] > times[2]
    json.dumps(result)
    text = precision_table(result)
    assert "The CPU gains no speed from any of this" in text
    assert all(name in text for name in names)
    (losses, apart) = precision_figure(result["curves"]).axes
    assert len(losses.lines) == len(apart.lines) == 3
    np.testing.assert_array_equal(apart.lines[0].get_ydata(), 0.0)
    assert [text.get_text() for text in apart.texts] == ["● float32", "■ bf16", "◆ fp8"]
    assert [line.get_marker() for line in apart.lines] == ["o", "s", "D"]
    assert apart.get_ylabel() == "nats per token"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precisions", "fp6"], "unknown precision 'fp6'"),
        (["--steps", "0"], "steps"),
        (["--plot", "curve.txt"], "end the name in .png"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(options, words, capsys):
    assert main(["bench", "precision", *options]) == 2
    assert words in capsys.readouterr().err
