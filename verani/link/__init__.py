"""Say what a gateway and a room host say to each other, whatever carries it: pure, without sockets or clocks."""
