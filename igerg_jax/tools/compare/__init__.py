"""Runs side by side: their figures with the spread over seeds, and tests against a baseline.

igerg compare RUN RUN … [--baseline=NAME] [--out=compare.html]
"""
