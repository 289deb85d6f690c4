"""Run what people write: one room, one event at a time."""
