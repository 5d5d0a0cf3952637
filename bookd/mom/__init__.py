"""The message-oriented middleware: a transparent gRPC proxy that keeps, on disk and in order, what must not be lost."""
