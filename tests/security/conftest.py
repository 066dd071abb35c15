from tests.faults.conftest import own_server, settled, stage

__all__ = ["own_server", "settled", "stage"]
