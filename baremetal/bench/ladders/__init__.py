"""Kernel ladders: from a naive kernel to a fast one, one idea a version (`baremetal ladder`)."""

from baremetal.bench.ladders.ladder import NAMES, Ladder, Problem, Version, find_ladder

__all__ = ["NAMES", "Ladder", "Problem", "Version", "find_ladder"]
