"""The largest files of programs that are read, and how many entries they may have."""

from __future__ import annotations

FORMAT = 4


LONGEST_FILE = 2_000_000


MOST_PROGRAMS = 128


MOST_SETTINGS, MOST_READS = 32, 256


MOST_EVENTS, MOST_ROWS, MOST_SYMBOLS, MOST_LAYERS, MOST_STACKS = 50_000, 20_000, 64, 64, 8


MOST_OF_FILE = 1_000_000
"""The most rows of all lists of a file."""


MOST_DIMENSIONS, MOST_NESTED, LONGEST_NAME = 16, 6, 300
