"""Run a service: its processes, their sockets, signals, files and ends."""
