"""Pictures without labels → a verdict for every tile, and drawings of where the cracks are."""
