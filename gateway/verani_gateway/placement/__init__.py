"""Lead inputs to the room hosts that own their rooms, over links."""
