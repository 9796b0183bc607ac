"""Decoding strategies and the search loops over a key-value cache."""
