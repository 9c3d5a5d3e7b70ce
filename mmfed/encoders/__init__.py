"""Frozen encoders: the public catalogue as numbers, cached on disk."""
