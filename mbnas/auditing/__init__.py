"""How robust a network is when everything is tried."""

from mbnas.auditing.auditor import Audit, audit, begun_with, feasible, version
from mbnas.auditing.case import Case
from mbnas.auditing.checks import Verdict
from mbnas.auditing.efforts import PLANS, Plan

__all__ = [
    "PLANS",
    "Audit",
    "Case",
    "Plan",
    "Verdict",
    "audit",
    "begun_with",
    "feasible",
    "version",
]
