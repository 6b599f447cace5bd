"""PRISM SSL: self-supervised pretraining on a hospital's own CT and MR archive."""
