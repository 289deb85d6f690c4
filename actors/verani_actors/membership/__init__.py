"""Decide which room hosts are members, how long they may serve, and whose a room is; pure, on a given clock."""
