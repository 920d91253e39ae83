"""Data: made (`disk`), read (`idx`, `npy`, `csv`) or given (`tensors`); in memory, or streamed from a file (`idx`, `npy`)."""
