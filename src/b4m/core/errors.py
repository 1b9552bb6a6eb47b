"""The one error that a user sees: a single line saying what is wrong, where, and what to do."""


class UserError(Exception):
    """Bad input: a file, an option or a folder that cannot be used as given.

    The message is one line: what was found, where, what was expected, what to do. The command line prints it
    as ``b4m: error: <line>`` and exits with status 2; nobody should ever see a traceback of it.
    """


class Busy(UserError):
    """Another process is at work in the same folder."""
