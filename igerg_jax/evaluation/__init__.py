"""From a trained model and data to metrics, samples and responses."""
