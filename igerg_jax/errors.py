"""The one exception for what a user can mend: main.py prints its message and exits with 2."""


class UserError(ValueError):
    """Bad input. The message names the thing that is wrong and what to do about it."""
