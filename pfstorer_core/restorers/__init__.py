"""What restores: the networks of a file and how they are used, a folder for each method."""
