"""Command-line tools beside the modes."""
