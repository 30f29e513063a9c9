"""A student in service: request batching, HTTP, one page."""
