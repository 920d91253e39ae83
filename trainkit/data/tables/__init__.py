"""Tables: rows with named columns, from a file or from Python, and the tensors that a net takes."""

from .encode import Rows as Rows
from .encode import absent_ids as absent_ids
from .encode import ignored_columns as ignored_columns
from .encode import read_rows as read_rows
from .encode import refuse_infinite as refuse_infinite
from .given import as_numbers as as_numbers
