"""How robust a network is when everything is tried; read top to bottom, this is the audit."""

from mbnas.auditing.auditor import Audit, audit, withstanding
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
    "withstanding",
]
