"""What comes in and goes out: values in plans and options, files, pickles."""
