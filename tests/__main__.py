"""`python tests`: format, lint, imports, types, tests, in this order; the first failure ends it.

Options go to pytest: `python tests -k resume`.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECK_IMPORTS = "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c(['--no-logo', '--no-cache']))"
STEPS = (
    ("format", ["-m", "ruff", "format", "--check", "--quiet"]),
    ("lint", ["-m", "ruff", "check", "--quiet"]),
    ("imports", ["-c", CHECK_IMPORTS]),
    ("types", ["-m", "mypy", "--no-error-summary"]),
    ("tests", ["-m", "pytest", "-n", "2", "--dist", "worksteal", *sys.argv[1:]]),
)

for name, command in STEPS:
    print(f"-- {name}", flush=True)
    code = subprocess.call([sys.executable, *command], cwd=ROOT)
    if code:
        print(f"-- {name}: failed", flush=True)
        sys.exit(code)
