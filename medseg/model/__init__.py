"""Model folders: weights and facts that can be checked before they are trusted, and are never executed."""
