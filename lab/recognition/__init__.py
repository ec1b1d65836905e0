"""Recognisers of elsewhere, brought into files that `load_recognizer` takes, and one of our own."""
