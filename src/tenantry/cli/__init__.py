"""The command line: arguments to fleet functions, and their results to a screen."""
