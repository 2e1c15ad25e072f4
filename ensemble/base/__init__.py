"""What every room stands on: errors, files, words, and how a command begins and ends."""
