"""Data: generated (`disk`), read from files (`idx`, `npy`, `csv`), or given in Python (`tensors`, `samples`)."""

from .dataset import Dataset as Dataset
from .dataset import Split as Split
from .sources import csv as csv
from .sources import disk as disk
from .sources import idx as idx
from .sources import image_folder as image_folder
from .sources import npy as npy
from .sources import samples as samples
from .sources import tensors as tensors
