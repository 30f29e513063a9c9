"""Where settings come from: gin files, the command line, typed fields, known machines."""
