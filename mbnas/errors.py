"""Mistakes a user can make, each with the exit code the command line ends with.

A message says what was given, what is allowed and what to do next, in one line.
"""


class MbnasError(Exception):
    """Any mistake that deserves one clear line instead of a traceback."""

    exit_code = 1


class SettingsError(MbnasError):
    """Settings, flags or arguments that make no sense."""

    exit_code = 2


class DataError(MbnasError):
    """Data, checkpoints or run folders that are missing, corrupt or foreign."""

    exit_code = 3


class BudgetError(MbnasError):
    """A BOPS budget that not even the smallest network of the space meets."""

    exit_code = 4
