"""`trainkit compare`: several configurations trained side by side, as tables and figures."""
