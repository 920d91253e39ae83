"""torch's update kernels that have no public Python name, for arithmetic only."""

import torch

_aten = torch.ops.aten

adam = _aten._fused_adam_.default  # ([p], [g], [m], [v], [largest v], [t], ...): one update in place
adamw = _aten._fused_adamw_.default  # the same, with the decay outside the gradient
