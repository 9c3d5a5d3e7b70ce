"""Hostile devices that push an item, and what each defence does about it; no part of the product."""
