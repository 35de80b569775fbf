"""Words on the command line to calls."""
