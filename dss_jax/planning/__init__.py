"""Plans: whether a run fits on a machine, and how fast it is, by the compiler alone."""
