"""Frontends: one file per kind of model, each yields a Program."""
