"""Settings of the whole suite."""

from __future__ import annotations

import os

# Two processes of two threads each share two cores: a thread that waits must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Sentences on one line, where tests look for them; `test_first_contact.py` asks about narrow terminals.
os.environ["COLUMNS"] = "300"
