"""What the annotated protos say, and the pure rules that follow from it.

Everything here is a function of its arguments: no time, no randomness, no I/O, no Twisted, no gRPC.
"""
