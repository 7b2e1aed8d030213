"""The documentation and its site."""
