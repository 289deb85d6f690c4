"""Own WebSockets: what they may send, what is written to them, and when they are closed."""
