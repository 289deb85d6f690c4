"""Hold what people write rooms with: definitions, methods, metas, sessions and the handles of hooks."""
