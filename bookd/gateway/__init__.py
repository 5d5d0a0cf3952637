"""The HTTPS gateway: REST outside, gRPC inside.

It knows HTTP and nothing of what the suite sells. Every route comes from a `google.api.http` rule of a descriptor set,
every decision about who may call from `bookd.policy.v1`; the calls go to the MOM as bytes. A request passes, in this
order:

    connection  limits on the bytes, before anything is believed
    routes      which rpc; who asks (tokens); may they (contract.policy); what the headers ask for (headers)
    calls       the gRPC call, with its deadline, its message id and its shield against clients that hang up
    answers     the response as HTTP, or 202 and the operation, or a stream
    problem     every failure, from one table
"""
