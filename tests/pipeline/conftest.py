"""What spawned ranks run must be importable by name in a new process, which inherits `sys.path`."""

import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
