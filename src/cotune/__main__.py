"""``python -m cotune``: the command line."""

import sys

from cotune.cli import main

if __name__ == "__main__":
    sys.exit(main())
