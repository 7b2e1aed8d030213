"""What a forward pass does: modules, sizes, and the families' programs."""
