"""How the tables of a history came to be: one module a version, never changed once it was released."""
