"""Checkpoint files: written atomically, read so that an untrusted file can do no harm."""

from .file import list_checkpoints as list_checkpoints
from .file import load as load
from .file import load_latest as load_latest
from .file import load_run as load_run
from .file import save as save
