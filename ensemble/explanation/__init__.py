"""Where a network saw a crack, as pictures."""
