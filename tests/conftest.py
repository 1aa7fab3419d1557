"""What all tests share: nothing is ever asked of a network, and busy machines are borne with."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # after the settings that libraries read when they are imported
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # tiny models, and as many test processes as cores
settings.register_profile("spanwright", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("spanwright")
