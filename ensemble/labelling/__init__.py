"""Photographs that nobody cut → pages to label their tiles on → tiles in class folders."""
