"""Class imbalance: resampling, class weights and augmentation, and what they do to a person's contribution."""
