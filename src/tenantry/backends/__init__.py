"""What each database server can do: returns statements, runs none."""
