"""One file a verb of `dss`: arguments in, settings, one call. Only these print results and exit."""
