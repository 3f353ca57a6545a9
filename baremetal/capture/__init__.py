"""Capture: a step is recorded once, its memory planned, and then replayed."""

from baremetal.capture.arena import Lifetime, lower_bound, plan_arena
from baremetal.capture.captured import Captured, Level, capture
from baremetal.capture.errors import CaptureError
from baremetal.capture.picture import arena_figure, arena_plot
from baremetal.capture.plan import MemoryReport, Plan
from baremetal.capture.segments import Segment, Segments, capture_segments
from baremetal.capture.slots import SlotMemory
from baremetal.capture.verify import verify_plan

__all__ = [
    "CaptureError",
    "Captured",
    "Level",
    "Lifetime",
    "MemoryReport",
    "Plan",
    "Segment",
    "Segments",
    "SlotMemory",
    "arena_figure",
    "arena_plot",
    "capture",
    "capture_segments",
    "lower_bound",
    "plan_arena",
    "verify_plan",
]
