"""The engines that take the steps of an epoch.

engine         StepEngine: one by one, or many in a call     auto        which of the two finishes first
step           one step, a function of tensors               bf16        its passes in bfloat16
multi_step     many steps in a call: what both share         native      in C++ that is generated for the net
                                                             cuda_graph  by replays on a CUDA device
"""
