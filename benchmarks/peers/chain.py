"""The read path as others would build it: FastAPI on uvicorn in front, grpc.aio behind, with bookd's hops.

    python -m benchmarks.peers.chain ROLE --home HOME --port PORT [--next PORT] [--database FILE]

ROLE is `gateway`, `middle` or `inventory`, a process each, as in bookd: HTTPS and an EdDSA token verified by its JWKS in
front, mutual TLS between, the request passed on as bytes in the middle, a point read of the same SQLite file at the end.
What bookd does beyond that (policies, message ids, field masks, logs of each request) is left out: the peer is given the
lighter job.
"""

import argparse
import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bookd.wire.inventory.v1 import inventory_pb2, inventory_pb2_grpc

GET_BOOK = "/bookd.inventory.v1.InventoryService/GetBook"
COLUMNS = "book_id, title, author, isbn, stock, currency_code, price_units, price_nanos"


def server_credentials(home: Path, name: str) -> grpc.ServerCredentials:
    """Mutual TLS with bookd's own certificates."""
    key, chain, ca = ((home / "pki" / each).read_bytes() for each in (f"{name}.key", f"{name}.pem", "ca.pem"))
    return grpc.ssl_server_credentials([(key, chain)], ca, require_client_auth=True)


def channel(home: Path, name: str, port: int) -> grpc.aio.Channel:
    """A channel with mutual TLS."""
    key, chain, ca = ((home / "pki" / each).read_bytes() for each in (f"{name}.key", f"{name}.pem", "ca.pem"))
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    return grpc.aio.secure_channel(f"localhost:{port}", credentials)


class Inventory(inventory_pb2_grpc.InventoryServiceServicer):
    """GetBook from SQLite, on the event loop, as a point read of 20 microseconds is best done."""

    def __init__(self, database: str) -> None:
        self._database = sqlite3.connect(database)

    async def GetBook(self, request: inventory_pb2.GetBookRequest, context: Any) -> inventory_pb2.Book:
        """One book."""
        row = self._database.execute(
            f"SELECT {COLUMNS} FROM books WHERE book_id = ?",  # noqa: S608 - constants
            (request.book_id,),
        ).fetchone()
        if row is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such book")
        book_id, title, author, isbn, stock, currency, units, nanos = row
        book = inventory_pb2.Book(book_id=book_id, title=title, author=author, isbn=isbn or "", stock=stock)
        book.price.currency_code, book.price.units, book.price.nanos = currency, units, nanos
        return book


async def serve_inventory(home: Path, port: int, database: str) -> None:
    """The service at the end."""
    server = grpc.aio.server()
    inventory_pb2_grpc.add_InventoryServiceServicer_to_server(Inventory(database), server)
    server.add_secure_port(f"localhost:{port}", server_credentials(home, "inventory"))
    await server.start()
    await server.wait_for_termination()


async def serve_middle(home: Path, port: int, onward: int) -> None:
    """The proxy in the middle: bytes in, bytes out."""
    forward = channel(home, "mom", onward).unary_unary(GET_BOOK)

    async def get_book(request: bytes, context: Any) -> Any:
        return await forward(request, timeout=context.time_remaining(), metadata=context.invocation_metadata())

    class Proxy(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(get_book)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Proxy(),))
    server.add_secure_port(f"localhost:{port}", server_credentials(home, "mom"))
    await server.start()
    await server.wait_for_termination()


def serve_gateway(home: Path, port: int, onward: int) -> None:
    """FastAPI on uvicorn, with uvloop and httptools."""
    import jwt
    import uvicorn
    from fastapi import FastAPI, Header, HTTPException
    from fastapi.responses import JSONResponse
    from google.protobuf.json_format import MessageToDict

    keys = {key["kid"]: jwt.PyJWK(key).key for key in json.loads((home / "keys" / "jwks.json").read_text())["keys"]}
    app = FastAPI()
    stubs: list[inventory_pb2_grpc.InventoryServiceStub] = []

    @app.get("/v1/books/{book_id}")
    async def get_book(book_id: str, authorization: str = Header()) -> Any:
        token = authorization.removeprefix("Bearer ")
        try:
            key = keys[jwt.get_unverified_header(token)["kid"]]
            jwt.decode(token, key, algorithms=["EdDSA"], audience="bookd", issuer="bookd")
        except (KeyError, jwt.InvalidTokenError) as error:
            raise HTTPException(401, str(error)) from None
        if not stubs:
            stubs.append(inventory_pb2_grpc.InventoryServiceStub(channel(home, "gateway", onward)))
        try:
            book = await stubs[0].GetBook(inventory_pb2.GetBookRequest(book_id=book_id), timeout=10)
        except grpc.aio.AioRpcError as error:
            raise HTTPException(404 if error.code() is grpc.StatusCode.NOT_FOUND else 503, error.details()) from None
        return JSONResponse(MessageToDict(book, preserving_proto_field_name=True))

    uvicorn.run(
        app,
        host="localhost",
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        ssl_keyfile=str(home / "pki" / "gateway.key"),
        ssl_certfile=str(home / "pki" / "gateway.pem"),
    )


def main() -> None:
    """Serve one role until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["gateway", "middle", "inventory"])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--next", type=int, default=0)
    parser.add_argument("--database", default="")
    arguments = parser.parse_args()
    if arguments.role == "gateway":
        serve_gateway(arguments.home, arguments.port, arguments.next)
    elif arguments.role == "middle":
        asyncio.run(serve_middle(arguments.home, arguments.port, arguments.next))
    else:
        asyncio.run(serve_inventory(arguments.home, arguments.port, arguments.database))


if __name__ == "__main__":
    main()
