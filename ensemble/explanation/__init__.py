"""Pictures of where a network saw a crack."""
