"""The inspector: a page that shows what a service does and why, served by the internal listener."""
