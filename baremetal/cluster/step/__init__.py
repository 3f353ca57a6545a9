"""One training step, predicted: its time, its memory, and where each second goes."""

from baremetal.cluster.step.predict import Prediction, predict

__all__ = ["Prediction", "predict"]
