"""Schedules executed in one process: the losses and gradients of the model that was never cut."""

import numpy as np

from baremetal.nn import GPT, GPTConfig
from baremetal.pipeline.eager_stage import EagerStage
from baremetal.pipeline.in_process import InProcess
from baremetal.pipeline.partition import Costs, partition
from baremetal.pipeline.stage import Batch, Stage
from baremetal.schedules import Action, Kind, Schedule


def make():
    config = GPTConfig(vocab_size=11, context=8, layers=2, heads=2, width=8, tied=False)
    return GPT(config, rng=np.random.default_rng(0)).to(np.float64)


def actions(text):
    return tuple(Action(Kind[word[1]], int(word[0]), int(word[2:])) for word in text.split())


def test_1f1b_of_two_stages():
    schedule = Schedule(
        "1f1b", 2, (actions("0F0 0F1 0B0 0B1"), actions("1F0 1B0 1F1 1B1")), ((0, 1),)
    )
    parts = partition(Costs(0, [1, 1], 0, "blocks"), 2)
    stages = [Stage(make(), part) for part in parts]
    pipeline = InProcess(schedule, [EagerStage(stage) for stage in stages])
    windows = np.random.default_rng(1).integers(0, 11, (2, 3, 9))
    batch = Batch(windows[:, :, :-1].copy(), windows[:, :, 1:].copy())
    losses = pipeline.step(batch)
    whole = make()
    for m in range(2):
        loss = whole.loss(batch.inputs[m], batch.targets[m], total=batch.tokens)
        loss.backward()
        assert loss.item() == losses[m]
    found = dict(pair for stage in stages for pair in stage.named_parameters())
    assert found.keys() == dict(whole.named_parameters()).keys()
    for name, parameter in whole.named_parameters():
        assert found[name].grad.numpy().tobytes() == parameter.grad.numpy().tobytes(), name
