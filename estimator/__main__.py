"""``python -m estimator``: the command line."""

from __future__ import annotations

import sys

from .show.cli import main

sys.exit(main())
