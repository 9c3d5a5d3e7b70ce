"""mmfed: privacy-preserving federated training of multimodal recommenders."""

__version__ = "0.1.0"
