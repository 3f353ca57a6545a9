"""What launches really write, for every operation: never more than their kernels declare."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from baremetal.autograd import CPU, Device, Parameter
from baremetal.nn import GPT, GPTConfig, Llama, LlamaConfig
from baremetal.optim import SGD, AdamW, Muon, decay_groups

_spec = importlib.util.spec_from_file_location(
    "autograd_cases", Path(__file__).with_name("cases.py")
)
_cases = importlib.util.module_from_spec(_spec)
sys.modules["autograd_cases"] = _cases  # dataclasses look their module up
_spec.loader.exec_module(_cases)


def watch(run, kernel, arrays, attributes):
    """A listener: run the launch, and refuse a change where none was announced."""
    before = [None if array is None else array.tobytes() for array in arrays]
    run()
    announced = kernel.written(arrays)
    for position, (array, old) in enumerate(zip(arrays, before, strict=True)):
        shared = any(np.may_share_memory(array, other) for other in announced if array is not None)
        if array is not None and not shared:
            assert array.tobytes() == old, f"'{kernel.name}' writes its array {position}"


@pytest.mark.parametrize("kernels", ["native", "reference"])
@pytest.mark.parametrize("case", [*_cases.CASES, *_cases.CONSTANT_CASES], ids=str)
def test_operations_and_their_rules(case, kernels):
    device = Device(kernels=kernels)
    chosen = case.differentiated()
    inputs = [
        Parameter(value, device=device) if i in chosen else value
        for i, value in enumerate(case.inputs)
    ]
    with device.listen(watch):
        out = case.call(*inputs)
        if out.requires_grad:
            for _ in range(2):  # a gradient that overwrites, one that is added
                out.backward(np.ones(out.shape), retain_tape=True)


@pytest.mark.parametrize("optimizer_name", ["adamw", "sgd", "muon"])
def test_a_step_of_training(optimizer_name):
    sizes = {"vocab_size": 11, "context": 8, "layers": 1, "heads": 2, "width": 16}
    rng = np.random.default_rng(0)
    gpt = GPT(GPTConfig(**sizes, dropout=0.5), rng=rng)
    tokens = rng.integers(0, 11, (2, 8))
    for model in (gpt, Llama(LlamaConfig(**sizes, kv_heads=1), rng=rng)):
        parameters = [*model.parameters()]
        if optimizer_name == "muon":
            matrices = [p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2]
            others = [p for p in parameters if not any(p is m for m in matrices)]
            optimizer = Muon(matrices, decay_groups(others, 0.1), learning_rate=0.01)
        elif optimizer_name == "sgd":
            optimizer = SGD(parameters, learning_rate=0.1, momentum=0.9)
        else:
            optimizer = AdamW(parameters, learning_rate=0.1)
        with CPU.listen(watch):
            loss = model.loss(tokens, tokens)
            loss.backward()
            optimizer.clip(0.5, loss)
            optimizer.step()
