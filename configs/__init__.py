"""Plain ml_collections ConfigDicts: one file per experiment, free of heavy imports."""
