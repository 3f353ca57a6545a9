"""Each published run, predicted, and how far the prediction is off."""

from dataclasses import dataclass

from baremetal.cluster.cost.software import find_software
from baremetal.cluster.models import find_model
from baremetal.cluster.plan import read_plan
from baremetal.cluster.step import Prediction, predict
from baremetal.cluster.validation.tables import Run
from baremetal.machine.catalogue import find_cluster


@dataclass(frozen=True)
class Judged:
    """A run and its prediction.

    Attributes:
        run: as published.
        prediction: of it.
    """

    run: Run
    prediction: Prediction

    @property
    def error(self) -> float:
        """Of the step's time: predicted / measured - 1."""
        return self.prediction.step_time_s / self.run.step_s - 1

    @property
    def memory_error(self) -> float | None:
        """Of the fullest rank's memory; None: nothing was published."""
        if self.run.memory_bytes is None:
            return None
        return sum(self.prediction.memory_bytes.values()) / self.run.memory_bytes - 1


def judge(run: Run) -> Judged:
    """Predict a run.

    Raises:
        BaremetalError: it cannot be predicted.
    """
    cluster = find_cluster(run.cluster)
    plan = read_plan(run.plan, cluster.gpus)
    software = find_software(run.software or cluster.software)
    return Judged(run, predict(find_model(run.model), cluster, plan, run.precision, software))
