"""Be Thespian's actor system on one asyncio event loop."""
