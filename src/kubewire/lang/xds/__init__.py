"""Envoy's configuration language (xDS v3) as values: render, check, evaluate, serve; without I/O.

Envoy reads the JSON form of its messages from files and over REST; over gRPC it takes their binary
form. ``model`` holds the messages that more than one room writes, ``snapshot`` a checked set of
resources, ``discovery`` the REST protocol, ``delta`` the incremental one, ``protobuf`` the binary.
"""
