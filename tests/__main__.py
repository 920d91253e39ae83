"""`python tests`: format, lint, types, tests, in this order; the first failure ends it.

Options go to pytest: `python tests -k resume`.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = (
    ("format", ["ruff", "format", "--check", "--quiet"]),
    ("lint", ["ruff", "check", "--quiet"]),
    ("types", ["mypy", "--no-error-summary"]),
    ("tests", ["pytest", "-n", "2", "--dist", "worksteal", *sys.argv[1:]]),
)

for name, (tool, *arguments) in STEPS:
    print(f"-- {name}", flush=True)
    code = subprocess.call([sys.executable, "-m", tool, *arguments], cwd=ROOT)
    if code:
        print(f"-- {name}: failed", flush=True)
        sys.exit(code)
