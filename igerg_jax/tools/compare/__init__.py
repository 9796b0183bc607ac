"""Compares runs: metrics with their spread over seeds, and tests against a baseline.

igerg compare RUN RUN … [--baseline=NAME] [--out=compare.html]
"""
