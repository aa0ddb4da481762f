"""Many trainings from one command: side by side or on a cluster, searched, and compared in one table."""
