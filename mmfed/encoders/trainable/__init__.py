"""Trainable encoders: small networks that learn from raw item inputs, or adapt frozen features."""
