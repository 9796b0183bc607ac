"""The exceptions that main.py turns into one message."""


class UserError(ValueError):
    """Bad input: exit code 2. The message names what is wrong and what to do about it."""


class RunError(RuntimeError):
    """A run that cannot go on. The message says why; main.py prints it and exits with 1."""


class OutOfMemory(RuntimeError):
    """A compiled program does not fit the device: exit code 3. The message says what to change."""
