"""nftables as values: tables, sets, chains and rules that render, encode and evaluate themselves.

``types`` packs keys, ``expressions`` are what rules are made of, ``model`` holds tables and turns
them into text (``render``) and netlink transactions (``replace``, ``difference``); ``evaluate`` walks
a packet through them. ``kernel.nfnetlink`` sends transactions.
"""
