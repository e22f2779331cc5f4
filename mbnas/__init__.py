"""Layer-wise search over multi-bit networks."""

import os

# Torch's threads may spin for ten microseconds while they wait, then they must sleep. Spinning on
# made the training of a small network 20 times slower on a machine that is shared with anything
# else; sleeping at once makes a large one an eighth slower. Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from mbnas.assignment import Assignment, Bases, Space
from mbnas.attacks import apgd, fgsm, pgd, square
from mbnas.auditing import PLANS, audit
from mbnas.bops import bops, itemise
from mbnas.checkpoints import load_network, load_supernet
from mbnas.config import load
from mbnas.evaluation import measure, recalibrate
from mbnas.formats import Format
from mbnas.images import Images
from mbnas.inspection import audit_checkpoint, evaluate_checkpoint
from mbnas.journal import Journal
from mbnas.networks import Network, freeze
from mbnas.pipeline import resume_search, retrain_candidate, run_search, train_network
from mbnas.search.executors import Executor
from mbnas.settings import Effort, Settings, Surrogate, Threat
from mbnas.supernet import Supernet, extract

__all__ = [
    "PLANS",
    "Assignment",
    "Bases",
    "Effort",
    "Executor",
    "Format",
    "Images",
    "Journal",
    "Network",
    "Settings",
    "Space",
    "Supernet",
    "Surrogate",
    "Threat",
    "apgd",
    "audit",
    "audit_checkpoint",
    "bops",
    "evaluate_checkpoint",
    "extract",
    "fgsm",
    "freeze",
    "itemise",
    "load",
    "load_network",
    "load_supernet",
    "measure",
    "pgd",
    "recalibrate",
    "resume_search",
    "retrain_candidate",
    "run_search",
    "square",
    "train_network",
]
