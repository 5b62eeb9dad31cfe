"""Tests of the bench itself: its arithmetic, its files and its pictures."""
