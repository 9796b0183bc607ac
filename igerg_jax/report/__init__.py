"""Turns a run's folder into one self-contained `report.html`, for large and small screens.

`igerg report WORKDIR` rewrites it, for a run that has finished or is still running.
"""

from igerg_jax.report.page import write_report

__all__ = ["write_report"]
