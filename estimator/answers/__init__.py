"""Answers to plans: an estimate, formulas, comparisons, advice and the inverse questions."""
