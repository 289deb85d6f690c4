"""Read HTTP requests: who sends them and from where, which bodies are read, and what aiohttp keeps to itself."""
