"""Data: generated (`disk`), read (`idx`, `npy`, `csv`, `parquet`, `image_folder`) or given (`tensors`, `table`, `samples`).

It is in memory, streamed from its file (`idx`, `npy`), or read sample by sample (`samples`, `image_folder`).
"""

from .dataset import Dataset as Dataset
from .dataset import Split as Split
from .sources import csv as csv
from .sources import disk as disk
from .sources import idx as idx
from .sources import image_folder as image_folder
from .sources import npy as npy
from .sources import parquet as parquet
from .sources import samples as samples
from .sources import table as table
from .sources import tensors as tensors
