"""What other programs show of a search while it runs."""
