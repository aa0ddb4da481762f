"""HTML: the report of runs, and the page to try a detector."""
