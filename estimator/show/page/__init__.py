"""The estimator as a page: the command line, run in a browser by Python compiled to WebAssembly."""
