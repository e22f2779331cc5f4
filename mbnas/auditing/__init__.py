"""How robust a network is when everything is tried; read top to bottom, this is the audit."""

from mbnas.auditing.auditor import Audit, audit, withstanding
from mbnas.auditing.case import Case
from mbnas.auditing.checks import Check, Verdict, judge
from mbnas.auditing.efforts import PLANS, Effort, Plan
from mbnas.auditing.evidence import Evidence, gather

__all__ = [
    "PLANS",
    "Audit",
    "Case",
    "Check",
    "Effort",
    "Evidence",
    "Plan",
    "Verdict",
    "audit",
    "gather",
    "judge",
    "withstanding",
]
