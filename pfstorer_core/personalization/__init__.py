"""Who it is: adapters that have learned a person, a folder for each method."""
