"""Pipeline schedules: who computes what, in which order. Plain data with three readers."""

from baremetal.schedules.action import Action, Kind, Overlap, Step
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.schedule import Schedule

__all__ = ["Action", "Kind", "Overlap", "Schedule", "ScheduleError", "Step"]
