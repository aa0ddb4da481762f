"""Many trainings from one line of words: started side by side or on a cluster, searched, and told in one table."""
