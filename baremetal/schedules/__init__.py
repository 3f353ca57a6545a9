"""Pipeline schedules: who computes what, in which order. Plain data with three readers."""

from baremetal.schedules.action import Action, Kind, Overlap, Step
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.generator import Generator, Share
from baremetal.schedules.registry import SCHEDULES, make_schedule
from baremetal.schedules.schedule import Schedule

__all__ = [
    "SCHEDULES",
    "Action",
    "Generator",
    "Kind",
    "Overlap",
    "Schedule",
    "ScheduleError",
    "Share",
    "Step",
    "make_schedule",
]
