"""What the tests of the pipeline share: tiny models, batches, orders, and the uncut model."""

import copy

import numpy as np

from baremetal.nn import GPT, GPTConfig, Grok, GrokConfig, Llama, LlamaConfig
from baremetal.pipeline.eager_stage import EagerStage
from baremetal.pipeline.in_process import InProcess
from baremetal.pipeline.partition import parts_of_stages
from baremetal.pipeline.runner import cut_batch
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.stage_plan import CapturedStage
from baremetal.schedules import Action, Kind, Schedule

VOCAB, CONTEXT, WIDTH = 7, 4, 4
SHAPE = (2, CONTEXT)  # of a microbatch


def maker(kind="gpt", layers=2, dtype=np.float64, freeze=(), **options):
    """A function that builds the same model each time; parameters of names in `freeze` rest."""
    sizes = {"vocab_size": VOCAB, "context": CONTEXT, "layers": layers, "heads": 2, "width": WIDTH}

    def make():
        rng = np.random.default_rng(0)
        if kind == "gpt":
            model = GPT(GPTConfig(**sizes, **options), rng=rng, dropout_seed=5)
        elif kind == "llama":
            model = Llama(LlamaConfig(**sizes, hidden=8, **options), rng=rng)
        else:
            sizes["hidden"] = 8
            model = Grok(GrokConfig(**sizes, experts=3, **options), rng=rng)
        model.to(dtype)
        for name, parameter in model.named_parameters():
            parameter.data[...] += 0.1 * rng.standard_normal(parameter.shape)
            parameter.requires_grad = not any(word in name for word in freeze)
        return model

    return make


def make_batch(microbatches, seed=1, step=0, size=SHAPE[0]):
    """Windows of random tokens; of each second microbatch part of the targets is padding."""
    rng = np.random.default_rng(seed)
    windows = rng.integers(0, VOCAB, (microbatches * size, CONTEXT + 1))
    targets = windows[:, 1:].copy()
    targets[size :: 2 * size, : CONTEXT - 1] = -100
    return cut_batch(windows[:, :-1].copy(), targets, microbatches, step)


def actions(text):
    """ "0F0 0B0" as actions."""
    return tuple(Action(Kind[word[1]], int(word[0]), int(word[2:])) for word in text.split())


def one_f_one_b(stages, microbatches):
    """As few forwards ahead as the stages behind need, then forward and backward in turns."""
    ranks = []
    for stage in range(stages):
        ahead = min(stages - stage, microbatches)
        order = [Action(Kind.F, stage, m) for m in range(microbatches)]
        for m in range(microbatches):
            at = min(ahead + 2 * m, microbatches + m)
            order.insert(at, Action(Kind.B, stage, m))
        ranks.append(tuple(order))
    return Schedule("1f1b", microbatches, tuple(ranks), (tuple(range(stages)),))


def mirrored(schedule):
    """The same twice, from both ends: rank r has its stage and a copy of the last rank's."""
    stages, count = schedule.stages, schedule.microbatches
    ranks = [
        (*there, *(Action(kind, stage + stages, m + count) for kind, stage, m in back))
        for there, back in zip(schedule.ranks, reversed(schedule.ranks), strict=True)
    ]
    paths = (tuple(range(stages)), tuple(range(stages, 2 * stages)))
    return Schedule("mirrored " + schedule.name, 2 * count, tuple(ranks), paths)


def in_one_piece(make, batch):
    """The model that was never cut, after a batch; and its loss."""
    model, losses = make(), []
    state = getattr(model, "dropout_state", None)
    for m, (inputs, targets) in enumerate(zip(batch.inputs, batch.targets, strict=True)):
        if state is not None:
            state.set(batch.step, first_sample=m * len(inputs))
        loss = model.loss(inputs, targets, total=np.array([float(batch.tokens)]))
        loss.backward()
        losses.append(loss.item())
    return model, sum(losses)


def make_stages(make, schedule, costs=None):
    """A stage for each that the schedule has, all of equal costs unless given."""
    model = make()
    parts = parts_of_stages(schedule, costs or [1.0] * len(model.blocks))
    # (Quicker than to build the whole model for each.)
    return [copy.deepcopy(Stage(model, part)) for part in parts]


def make_pipeline(stages, schedule, captured=False, shape=SHAPE):
    if captured:
        runners = [
            CapturedStage.for_schedule(stage, shape, schedule, number)
            for number, stage in enumerate(stages)
        ]
    else:
        runners = [EagerStage(stage, shape) for stage in stages]
    return InProcess(schedule, runners)


def gradients(model):
    """Copies by name, None for those that have none."""
    return {
        name: None if p.grad is None else p.grad.numpy().copy()
        for name, p in model.named_parameters()
    }


def summed_gradients(stages):
    """Those of stages, added over the copies of each parameter."""
    total = {}
    for stage in stages:
        for name, grad in gradients(stage.model).items():
            if total.get(name) is None:
                total[name] = grad
            elif grad is not None:
                total[name] = total[name] + grad
    return total


def assert_close(found, expected, bound=1e-12):
    """Every gradient within `bound` of its norm; None where None is expected."""
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        if grad is None:
            assert found[name] is None, name
            continue
        assert found[name] is not None, name
        error = np.linalg.norm(found[name] - grad)
        assert error <= bound * np.linalg.norm(grad), (name, error, np.linalg.norm(grad))
