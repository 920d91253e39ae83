"""One thread a test process: nets this small only lose by more, and the workers of xdist share the cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
