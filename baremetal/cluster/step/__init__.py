"""One training step, predicted: its time, its memory, and where each second goes."""

from baremetal.cluster.step.replica import Prediction, predict

__all__ = ["Prediction", "predict"]
