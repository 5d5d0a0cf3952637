"""What is measured through the front door of a suite. Each module answers rows and facts; `benchmarks.run` runs them."""
