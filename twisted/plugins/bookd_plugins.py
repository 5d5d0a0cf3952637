"""Tells twistd the names of the five daemons. Nothing of bookd is imported before one of them is asked for."""

from twisted.application.service import ServiceMaker

gateway = ServiceMaker("bookd gateway", "bookd.gateway.tap", "The REST gateway of bookd", "bookd-gateway")
mom = ServiceMaker("bookd MOM", "bookd.mom.tap", "The durable gRPC middleware of bookd", "bookd-mom")
inventory = ServiceMaker(
    "bookd inventory", "bookd.inventory.tap", "The catalogue and stock of bookd", "bookd-inventory"
)
orders = ServiceMaker("bookd orders", "bookd.orders.tap", "The orders of bookd", "bookd-orders")
users = ServiceMaker("bookd users", "bookd.users.tap", "The users and sessions of bookd", "bookd-users")
