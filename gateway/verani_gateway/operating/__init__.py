"""Serve the internal listener: calls over HTTP, and what operators may see and do."""
