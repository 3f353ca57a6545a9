"""One contender of the training race, in a process of its own (see `bench/contender.py`).

Both train the same model from the same weights on the same batches with the same learning rates,
and evaluate on the same validation windows. A request {"steps": n} does n steps and one evaluation
and is answered with {"time_s", "train_loss", "val_loss"}; a request {"warm_up": true} does one step
and one evaluation on a copy that is thrown away, so that no compiling is timed.
"""

import sys
import time
from typing import Any, Protocol

from baremetal.bench.contender import serve
from baremetal.train.config import TrainConfig
from baremetal.train.trainer import Trainer


class Racer(Protocol):
    """What a contender must be able to do."""

    def step(self) -> float:
        """One optimiser step; the training loss in nats per token."""

    def evaluate(self) -> float:
        """The validation loss in nats per token."""


class OurRacer:
    """The trainer as `baremetal train` uses it, without bar, files and checkpoints."""

    def __init__(self, config: TrainConfig) -> None:
        self.trainer = Trainer(config)

    def step(self) -> float:
        return self.trainer.train_step().train_loss

    def evaluate(self) -> float:
        return self.trainer.evaluate()


def make_racer(contender: str, config: TrainConfig, threads: int) -> Racer:
    """A fresh contender at step 0."""
    if contender == "baremetal":
        from baremetal.kernels.native.pool import POOL

        POOL.set_threads(threads)
        return OurRacer(config)
    from baremetal.bench.race.torch_racer import TorchRacer

    return TorchRacer(config, threads)


class Race:
    """Answers the requests."""

    def __init__(self, contender: str, config: TrainConfig, threads: int) -> None:
        self.make = lambda: make_racer(contender, config, threads)
        self.racer = self.make()

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Warm up, or do some steps and an evaluation, timed together."""
        if request.get("warm_up"):
            spare = self.make()
            spare.step()
            return {"val_loss": spare.evaluate()}
        start = time.perf_counter()
        for _ in range(request["steps"]):
            train_loss = self.racer.step()
        val_loss = self.racer.evaluate()
        time_s = time.perf_counter() - start
        return {"time_s": time_s, "train_loss": train_loss, "val_loss": val_loss}


def main() -> None:
    """Serve on standard input and output."""
    contender, steps, threads = sys.argv[1:]
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not mix with the answers
    race = Race(contender, TrainConfig(steps=int(steps)), int(threads))
    serve(contender, race.handle, answers)


if __name__ == "__main__":
    main()
