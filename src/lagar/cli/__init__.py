"""The command line: one module per command or noun, each with an `app`, imported when it is asked for."""
