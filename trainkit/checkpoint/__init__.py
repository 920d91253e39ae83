"""Checkpoint files: written atomically, read so that a stranger's file can do no harm."""

from .file import load as load
from .file import load_run as load_run
from .file import newest as newest
from .file import save as save
from .file import saved as saved
