"""Spans, counters and flows, and their forms: terminal, picture, Perfetto file, summary.

Everything else in the project that measures, simulates or prints figures comes here for it.
Nothing in this room imports matplotlib before a picture is asked for.
"""

from baremetal.trace.curves import Line, line_figure, line_plot
from baremetal.trace.perfetto import read_perfetto, write_perfetto
from baremetal.trace.picture import timeline_figure, timeline_plot
from baremetal.trace.recording import Total, Trace
from baremetal.trace.roofline import (
    RooflinePoint,
    attainable_flops,
    ridge_intensity,
    roofline_figure,
    roofline_plot,
    shortest_time_s,
)
from baremetal.trace.spans import PS_PER_NS, PS_PER_S, Counter, Flow, Span
from baremetal.trace.summary import summarise, summary_table
from baremetal.trace.tables import Column, table
from baremetal.trace.terminal import can_print, supports_colour, timeline
from baremetal.trace.units import (
    format_bytes,
    format_count,
    format_percent,
    format_rate,
    format_seconds,
    format_si,
)

__all__ = [
    "PS_PER_NS",
    "PS_PER_S",
    "Column",
    "Counter",
    "Flow",
    "Line",
    "RooflinePoint",
    "Span",
    "Total",
    "Trace",
    "attainable_flops",
    "can_print",
    "format_bytes",
    "format_count",
    "format_percent",
    "format_rate",
    "format_seconds",
    "format_si",
    "line_figure",
    "line_plot",
    "read_perfetto",
    "ridge_intensity",
    "roofline_figure",
    "roofline_plot",
    "shortest_time_s",
    "summarise",
    "summary_table",
    "supports_colour",
    "table",
    "timeline",
    "timeline_figure",
    "timeline_plot",
    "write_perfetto",
]
