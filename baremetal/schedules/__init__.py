"""Pipeline schedules: who computes what, in which order. Plain data with three readers."""

from baremetal.schedules.action import Action, Kind, Overlap, Step
from baremetal.schedules.csv_form import from_csv, to_csv
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.generator import Generator, Share
from baremetal.schedules.registry import SCHEDULES, make_schedule
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.text_form import from_text, read_schedule, to_text

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
    "from_csv",
    "from_text",
    "make_schedule",
    "read_schedule",
    "to_csv",
    "to_text",
]
