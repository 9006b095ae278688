"""Lets ``python -m cotune.cli`` stand in for the ``cotune`` script."""

from __future__ import annotations

import sys

from cotune.cli import main

sys.exit(main())
