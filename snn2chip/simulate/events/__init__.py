"""The event-driven engine, compiled: `engine.EventEngine`, and `library.unavailable`, which says why it cannot run."""
