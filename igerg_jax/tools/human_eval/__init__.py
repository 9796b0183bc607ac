"""People compare the responses of two runs, blind; see `__main__`."""
