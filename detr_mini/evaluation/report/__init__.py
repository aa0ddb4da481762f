"""A detector measured on a split, and the files, tables and pictures that show the result."""
