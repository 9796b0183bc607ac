"""Linen modules: pure functions of parameters and arrays. No data, no files, no configs."""
