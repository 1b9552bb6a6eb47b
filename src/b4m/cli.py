"""`python -m b4m.cli`: the command line, under the name that older scripts and `accelerate launch --module` know."""

import sys

from .apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
