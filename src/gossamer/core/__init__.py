"""Nouns and errors that everything else may know. No torch."""
