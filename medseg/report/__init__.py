"""Pages for people, made from the tables that score wrote."""
