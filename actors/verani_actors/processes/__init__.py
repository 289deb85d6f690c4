"""Be the processes of an actor system: launcher, registrar and room hosts."""
