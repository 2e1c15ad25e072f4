"""What a run is on disk: its folder, tables, members and packed tiles."""
