"""The answers to plans: estimates, formulas, comparisons, advice, and inverse questions (the longest sequence, ...)."""
