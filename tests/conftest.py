"""What holds for every test."""

import torch
from hypothesis import settings

torch.set_num_threads(1)  # the tensors are tiny
settings.register_profile("mbnas", deadline=None)  # the first call of anything in torch is slow
settings.load_profile("mbnas")
