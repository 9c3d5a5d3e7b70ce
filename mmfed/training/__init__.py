"""What a device does in a round, and the same for many devices at once."""
