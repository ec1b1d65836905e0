"""Pictures: their files, sizes, tiles, colours and faces."""
