"""Chats of `chitchat-dataset` whose turns show a face of OpenMoji."""

# Raise it whenever what the builder writes changes: caches are keyed by it.
VERSION = "1.4.0"
