"""How the daemons keep things: engines, migrations and the inbox. Plain synchronous SQLAlchemy Core, no Twisted, no gRPC."""
