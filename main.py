"""Trains, evaluates, and talks with an emotion-aware vision-language model: see main.py --help.

The same as the command `igerg`, which `pip install .` puts on the path, for who works in a clone.
"""

from igerg_jax import environment

environment.check()  # before imports that fail in a Python that is too old, or without packages
with environment.interrupts_end():
    from igerg_jax.cli.main import main

if __name__ == "__main__":
    environment.run(main)
