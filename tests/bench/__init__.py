"""Figures of the product, each beside a floor that is measured in the same run."""
