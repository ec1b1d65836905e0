"""Folders of pictures and of people: restored, and learned, by one process or many that share the work."""
