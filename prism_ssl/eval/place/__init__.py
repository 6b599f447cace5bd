"""Place test: does the encoder find the same place of the body in another series of the patient?"""
