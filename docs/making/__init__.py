"""Scripts that write the recorded programs of ``model_specs/``, and what only they run. No part of the package."""
