"""The soak: replicas of a real app under load while everything around them fails, and a verdict over all that happened.

``headrace soak`` is its command. The processes under test are real ``headrace run`` processes and are really killed; what
is published and handled is written down by those who did it (`headrace.testing.history`) and judged at the end.
"""

from headrace.testing.soak.plan import Plan, Step
from headrace.testing.soak.report import Report
from headrace.testing.soak.running import Soak

__all__ = ["Plan", "Report", "Soak", "Step"]
