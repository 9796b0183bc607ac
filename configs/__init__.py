"""Plain ml_collections ConfigDicts: one file an experiment, importing nothing heavy."""
