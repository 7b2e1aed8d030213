"""The moments of a run outside its training step."""
