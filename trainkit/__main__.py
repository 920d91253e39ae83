"""Run the command line: `python -m trainkit`."""

import sys

try:
    from .app.cli.main import main
except KeyboardInterrupt:  # during the import, before `main` can handle it
    sys.exit(130)

sys.exit(main())
