"""Keep a process of a service in order, whatever it is for: its log, memory, imports, files and end."""
