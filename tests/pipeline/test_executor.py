"""The executor alone: what stages of one rank hand each other, and each step's own chances."""

import numpy as np
from pipeline_models import tiny_job, windows

from baremetal import comm
from baremetal.pipeline.board import Board
from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.executor import Executor
from baremetal.pipeline.in_process import InProcess
from baremetal.pipeline.lanes import step_seed
from baremetal.pipeline.runner import Batch
from baremetal.schedules.text_form import from_text


def test_a_gradient_handed_over_survives_the_next_microbatch_in_its_memory():
    """Stage 1 has one slot, and its second microbatch ends before stage 0 reads the first's."""
    schedule = from_text("0F0 1F0 1I0 1W0 0F1 1F1 1I1 1W1 0I0 0W0 0I1 0W1\n")
    job = tiny_job(schedule)
    batch = Batch(*windows(0, 2))

    def built(eager):
        stages = build_stages(job.builder.model, job.parts, range(2))
        for stage in stages.values():
            job.builder.optimizer(stage.model).zero_grad()
        return stages, build_runners(stages, schedule, (job.samples, job.context), eager=eager)

    stages, runners = built(eager=False)
    with comm.Exchange(job.layout) as exchange:
        board = Board(exchange.board.memory, 1)
        Executor(job.wiring, 0, runners, {}, {}, board, [1] * 12).run(batch, comm.VirtualClock())
    wanted, oracle = built(eager=True)
    InProcess(schedule, [oracle[0], oracle[1]]).step(batch)
    for number, stage in stages.items():
        others = dict(wanted[number].named_parameters())
        for name, parameter in stage.named_parameters():
            np.testing.assert_allclose(
                parameter.grad.numpy(), others[name].grad.numpy(), rtol=1e-10, atol=1e-14,
                err_msg=name,
            )  # fmt: skip


def test_every_step_of_a_run_has_chances_of_its_own():
    seeds = {step_seed(seed, step) for seed in range(3) for step in range(100)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_rank_that_is_prepared_says_so_even_if_its_costs_had_to_be_found_out(monkeypatch):
    """Costs are found by a rehearsal that may load kernels, of which the board is told, too."""
    from baremetal.kernels.native.compiler import COMPILING
    from baremetal.pipeline.board import State
    from baremetal.pipeline.eager_stage import EagerStage
    from baremetal.pipeline.worker import Worker

    def launch_costs(self):
        COMPILING.tell("a kernel")
        return {}

    monkeypatch.setattr(EagerStage, "launch_costs", property(launch_costs))
    job = tiny_job(from_text("0F0 0B0\n"), eager=True)
    with comm.Exchange(job.layout) as exchange:
        worker = Worker(0, job, comm.Endpoint(exchange.address, 0))
        worker.prepare()
        assert worker.board.status(0).state is State.IDLE
