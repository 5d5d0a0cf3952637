"""Measurements of bookd beside what it is compared to. `make bench` runs them; no test does."""
