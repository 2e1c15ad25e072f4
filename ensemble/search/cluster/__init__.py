"""What joins, guards and cleans up Ray, and carries files between the nodes of a cluster."""
