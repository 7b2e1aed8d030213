"""Records what a real module's forward pass calls, as a program. Needs PyTorch.

``mode`` notes the calls, and ``data`` says what is known of the tensors' data.
"""

from .data import Routing
from .mode import LOSS, Recorder, Wrapped, dtype_name, modules_of, record

__all__ = ["LOSS", "Recorder", "Routing", "Wrapped", "dtype_name", "modules_of", "record"]
