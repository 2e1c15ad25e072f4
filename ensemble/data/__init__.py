"""Tiles on disk → photographs → splits → packed pixels → batches on a device."""
