"""Other people's weight files, read into plain arrays; nothing is executed."""
