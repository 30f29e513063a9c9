"""The report of a sweep: one HTML page and its tables and figures, made of what runs left."""
