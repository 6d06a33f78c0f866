"""iptables and ipset as values that render, parse and evaluate themselves.

``matches`` and ``targets`` are what rules are made of, ``model`` holds chains and tables and sends
packets through them, ``parse`` reads what ``iptables-save`` prints, ``change`` writes what
``iptables-restore --noflush`` reads, ``ipset`` does all that for sets. Rendering is *canonical*: a
rule is written exactly as ``iptables-save`` lists it, so what is meant and what is there can be
compared as text. ``kernel.iptables`` and ``kernel.ipset`` run the programs.

The legacy variant's binary form is ``entries`` (a rule as bytes) and ``blob`` (a table's bytes, and
a change of them); ``kernel.xtables`` exchanges them with the kernel.
"""
