"""Files: reading hostile ones, telling what they are and how large their networks, and writing them."""
