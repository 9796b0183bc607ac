"""Command-line tools beside main.py."""
