"""Tests of gcs.host."""
