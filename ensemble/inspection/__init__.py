"""Photographs of a visit → a folder to look through and to correct: pages, tables and boxes."""
