"""The orders service: from the basket to the reservation of the stock, and back when an order is cancelled."""
