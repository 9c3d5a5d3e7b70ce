"""Fusion heads: modality vectors of an item to one vector."""
