"""A plan's formulas, and its bytes as a function, for people and for other programs."""
