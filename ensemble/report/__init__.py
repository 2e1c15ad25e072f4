"""report.html: what a search and its test left, on one page for a colleague."""
