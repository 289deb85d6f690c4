"""Run the command line with ``python -m verani_gateway``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
