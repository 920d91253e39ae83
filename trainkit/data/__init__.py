"""Data that fits in memory, as tensors: made (`disk`), read (`idx`, `csv`) or given (`tensors`)."""
