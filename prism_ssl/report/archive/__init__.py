"""The page of an archive: what is in it, what is refused, and what training will see of it."""
