"""Runs side by side: their figures with the spread over seeds, and tests against a baseline.

python -m igerg_jax.tools.compare RUN RUN … [--baseline=NAME] [--out=compare.html]
"""
