from bgtask.worker.runner import Runner

__all__ = ["Runner"]
