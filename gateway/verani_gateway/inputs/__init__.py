"""Keep what a gateway answers for: inputs not yet processed, attachments and counters."""
