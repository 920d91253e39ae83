"""Where data comes from: one function per kind of source; each returns a Dataset."""

from .csv import csv as csv
from .idx import idx as idx
from .image_folder import image_folder as image_folder
from .npy import npy as npy
from .parquet import parquet as parquet
from .recorded import memory as memory
from .samples import samples as samples
from .synthetic import disk as disk
from .table import table as table
from .tensors import tensors as tensors
