"""Torch's own update kernels, which have no public Python name: arithmetic only."""

import torch

_aten = torch.ops.aten

adam = _aten._fused_adam_.default  # ([p], [g], [m], [v], [largest v], [t], ...): one update, in place
adamw = _aten._fused_adamw_.default  # the same with the decay outside the gradient
