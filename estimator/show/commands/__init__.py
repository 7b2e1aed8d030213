"""One file per command: ``configure`` adds its options, ``execute`` runs it and returns the exit status."""
