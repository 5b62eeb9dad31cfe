"""Tests against the real kernel, as root."""
