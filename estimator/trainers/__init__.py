"""Files that training tools read, as plans."""
