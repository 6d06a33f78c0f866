"""The kubelet's own API on port 10250: logs, exec, attach, port-forward, pods, health, metrics.

`kubectl logs` and the like reach it through the API server, which only finds the node (see
``apiserver.kubelet``). Paths, queries and texts are those of upstream's kubelet.
"""
