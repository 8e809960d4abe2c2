"""What was asked: reading, pairing and writing kernel memory traces."""
