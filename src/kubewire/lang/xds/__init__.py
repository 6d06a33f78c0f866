"""Envoy's configuration language (xDS v3) as values: render as JSON, check, evaluate, serve.

Envoy reads the JSON form of its protobuf messages from files and over REST, so no protobuf is
needed. ``model`` holds the messages that more than one room writes; ``snapshot`` is a checked set
of resources; ``discovery`` is the protocol between an Envoy and who configures it, without I/O.
"""
