"""Checkpoint files: written atomically, read so that an untrusted file can do no harm.

file: save, load, find the newest. schema: what a file must hold (`trainer/capture.py` fills it in). plain: which values are
allowed. safe_pickle: the pickle, checked opcode by opcode. digest: one hash of all parameters. template: the names of the
files. inspection: `trainkit checkpoint show | verify | diff`.
"""

from .file import list_checkpoints as list_checkpoints
from .file import load as load
from .file import load_latest as load_latest
from .file import load_run as load_run
from .file import save as save
