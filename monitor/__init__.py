"""Scores and samples in; drift, alerts and a page out."""
