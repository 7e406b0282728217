"""Errors that are the user's to mend: one line, exit code 2, no traceback."""


class UserError(Exception):
    """Says what was found, what was expected and how to mend it, in one line."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, raised where the run can be saved."""
