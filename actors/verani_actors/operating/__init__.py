"""Answer operators: what a room host does, and what can be measured of it."""
