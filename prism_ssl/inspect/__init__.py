"""Look at the views that an encoder is given."""
