"""A run's folder to one self-contained `report.html`, for a desk or a phone, without a network.

`igerg report WORKDIR` rewrites it, for a run that is over or still going.
"""

from igerg_jax.report.page import write_report

__all__ = ["write_report"]
