"""Pre-trained weights in, and a run's weights out, in the formats that others read."""
