"""Keep rooms: find them, wake them, feed them, put them to sleep and move them."""
