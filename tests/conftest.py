"""What all tests share: nothing is ever asked of a network or a GPU, and busy machines are borne with."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the numbers compared here are a CPU's; GPUs have scripts of their own

import torch  # after the settings that libraries read when they are imported
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # tiny models, and as many test processes as cores
settings.register_profile("spanwright", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("spanwright")
