"""Run rooms as Thespian actors: system base, room actor, hibernation, room host."""
