"""Kernels on a processor: `make kernels` has Triton interpret them; tests/gpu/kernels_on_gpu.py tries them on a GPU.

Triton's interpreter cannot compute in bfloat16, which is therefore tried on a GPU alone.
"""

import importlib.util
import os

collect_ignore_glob = []
if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
    collect_ignore_glob.append("test_*.py")
