"""Data: generated (`disk`), read (`idx`, `npy`, `csv`, `parquet`) or given (`tensors`, `table`).

It is in memory, or streamed (`idx`, `npy`).
"""

from .dataset import Dataset as Dataset
from .dataset import Split as Split
from .sources import csv as csv
from .sources import disk as disk
from .sources import idx as idx
from .sources import npy as npy
from .sources import parquet as parquet
from .sources import table as table
from .sources import tensors as tensors
