"""Raw item inputs of the trainable encoders: the public catalogue as small tensors."""
