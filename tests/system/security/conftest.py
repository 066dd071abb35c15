from tests.system.faults.conftest import own_server, settled, testbed

__all__ = ["own_server", "settled", "testbed"]
