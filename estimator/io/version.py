"""The release of this package, as it is written into what goes out."""

__version__ = "0.5.0"
