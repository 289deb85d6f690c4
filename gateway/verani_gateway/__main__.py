"""Run the command line: `verani`, or ``python -m verani_gateway``."""

import gc
import sys

from .service.early import exit_at_once

__all__ = ["main"]


def main() -> int:
    """Run the command line and return the exit code; what serves obeys signals from here on."""
    if sys.argv[1:2] in (["serve"], ["join"]):
        exit_at_once()
    # Nothing of what is imported is garbage: to look for it takes a quarter of the time of a start.
    gc.disable()
    from .cli.main import main  # takes a while

    gc.freeze()
    gc.set_threshold(100_000)  # nor is what a command imports besides
    gc.enable()
    return main()


if __name__ == "__main__":
    sys.exit(main())
