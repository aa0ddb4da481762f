"""How sure a measurement is, and whether two differ."""
