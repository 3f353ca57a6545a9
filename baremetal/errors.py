"""The one exception a user can cause.

Everything a person can get wrong from outside (a file, an option, a shape, a checkpoint) ends in
a `BaremetalError` whose message says three things in one line: what was given, what was
expected, what to do. The command line prints that line and exits with status 2; a traceback is
reserved for our own mistakes.
"""


class BaremetalError(ValueError):
    """Bad input, explained in one line: what was given, what was expected, what to do."""
