"""A step in which every GPU is itself: its own speed, its own network card, its own luck."""

from baremetal.cluster.events.crowd import Crowd, Spread, draw_crowd
from baremetal.cluster.events.every_gpu import EveryGpu, play_every_gpu

__all__ = ["Crowd", "EveryGpu", "Spread", "draw_crowd", "play_every_gpu"]
