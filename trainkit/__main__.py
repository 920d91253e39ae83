"""`python -m trainkit`."""

import sys

try:
    from .app.cli.main import main
except KeyboardInterrupt:  # before there is a `main` to answer it
    sys.exit(130)

sys.exit(main())
