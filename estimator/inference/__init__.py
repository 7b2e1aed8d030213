"""What a model is used for once it is trained: passes without a graph."""
