"""What `runner.clean` removes: it finds runs, decides which nothing needs, and removes their largest files."""
