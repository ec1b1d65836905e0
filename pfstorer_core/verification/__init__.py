"""Whether files work as they must: for weights that only their users have."""

from .report import Report
from .run import STEPS, verify
from .settings import Settings

__all__ = ["STEPS", "Report", "Settings", "verify"]
