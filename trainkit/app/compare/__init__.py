"""`trainkit compare`: train several configurations, and compare them in tables and figures."""
