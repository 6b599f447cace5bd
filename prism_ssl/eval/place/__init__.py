"""Place test: find the same place of the body in another series of the patient."""
