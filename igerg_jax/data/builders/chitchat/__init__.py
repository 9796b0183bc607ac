"""What the datasets of `chitchat-dataset` share: their episodes, and OpenMoji faces."""
