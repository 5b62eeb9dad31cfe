"""Tests that any user can run, without privileges or network."""
