"""The metadata keys that travel with a call, and what their values look like. docs/protocol.md explains them to users."""

# UUID that names the intent of the call. Makes a deferrable call durable, and any write idempotent.
MESSAGE_ID = "bookd-message-id"
# Serialized bookd.policy.v1.Principal: who asks. Trusted only from peers that are listed for that.
PRINCIPAL = "bookd-principal-bin"
# Id of the client's request, for logs; 1 to 128 characters of A-Z a-z 0-9 - _ .
REQUEST_ID = "bookd-request-id"
# Address of the client that the gateway speaks for, as text. Believed from the peers that are believed about principals.
CLIENT_ADDRESS = "bookd-client-address"
# W3C Trace Context.
TRACEPARENT = "traceparent"
# Method path ("/package.Service/Method") that gets the outcome of the call, should the MOM keep it.
REPLY_TO = "bookd-reply-to"
# "1": the MOM keeps the call at once, in place of trying to forward it first (RFC 7240, respond-async).
RESPOND_ASYNC = "bookd-respond-async"
# "1": the MOM kept the call and delivers it now; it may have come before. Never on a call that is forwarded at once.
REDELIVERY = "bookd-redelivery"

# What the MOM hands on and stores with a kept call.
CARRIED = (MESSAGE_ID, PRINCIPAL, REQUEST_ID, TRACEPARENT, CLIENT_ADDRESS)
