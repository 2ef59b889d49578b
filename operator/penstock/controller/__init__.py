"""The reconcile loop and the ports it needs: dirty keys in, gather, decide, apply.

What must not live here: HTTP, SQL, kopf, processes. Adapters (`local`, `kube`) bring those through the ports.
"""
