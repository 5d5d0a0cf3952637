"""The catalogue and the stock of the bookstore."""
