"""Reads what people hand in: folders, archives and pictures of any kind, some of it hostile."""
