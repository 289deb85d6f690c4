"""Be the command line."""
