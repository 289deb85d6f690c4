"""Be the room host's end of links: packets over WebSockets, TLS, and how far rooms may be ahead."""
