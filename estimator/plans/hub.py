"""A model's config.json from the hub: at most so large, within so many seconds, and one line where that fails."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from ..errors import InputError
from ..io.files import read_json
from ..io.limits import within

SECONDS = 20.0
"""All that the hub and its library may take together. Their own limits hold for each part of an answer alone."""
LARGEST = 1_000_000
"""The most bytes of a config.json."""
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
"""Files that say what becomes of images, in the order in which transformers reads them."""
VIDEO_PROCESSORS = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
"""The same of videos."""


class Unreachable(InputError):
    """The hub does not answer, or its library does not start."""


def processor_of(model: str, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The files about images, by their names, from the cache or else from the hub; none where it has none."""
    for name in names:
        try:
            yield name, config_of(model, name)[0]
        except Unreachable:
            return
        except InputError:
            continue


_failed: dict[tuple[str, str], tuple[float, InputError]] = {}
"""What was not had, and when. One question needs the model several times."""


def config_of(model: str, file: str = "config.json") -> tuple[dict[str, Any], str]:
    """The keys of a config.json, from the cache or else from the hub; and a note on what is ignored in the cache.

    Raises ``Unreachable``, and ``InputError`` for what the hub refuses, and for a file that is too large or no JSON:
    for some seconds without asking again.
    """
    at, known = _failed.get((model, file), (-inf, None))
    if known is not None and monotonic() < at + SECONDS:
        raise type(known)(str(known))
    try:
        return _asked(model, file)
    except InputError as error:
        _failed[model, file] = monotonic(), type(error)(str(error))
        raise


def _asked(model: str, file: str) -> tuple[dict[str, Any], str]:
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError:
        raise Unreachable(
            f"'{model}' is no built-in name and no file, and there is no huggingface_hub here to ask the hub with; "
            "give its config.json"
        ) from None
    except Exception as error:  # it reads its variables while it is imported
        raise Unreachable(f"huggingface_hub does not start: {error}; look at the variables HF_*") from None
    note = ""
    try:
        cached = try_to_load_from_cache(model, file)
        if isinstance(cached, str):
            try:
                return read_json(Path(cached)), ""
            except InputError as error:
                note = f"a file in the cache is ignored: {error}"
        return within(SECONDS, lambda: _downloaded(model, file)), note
    except InputError:
        raise
    except HFValidationError:
        raise InputError(f"'{model}' is neither a file nor a valid hub id; give a config.json, or its folder") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no")
        raise InputError(
            f"the hub answered {status} for '{model}'; check the id, log in with `hf auth login` if it is gated, "
            "or give a local config.json"
        ) from None
    except Exception as error:
        reasons = [note, str(error)[:100] if isinstance(error, OSError) else ""]
        why = "".join(f" ({reason})" for reason in reasons if reason)
        raise Unreachable(
            f"cannot reach the hub for '{model}' and it is not in the cache{why}; give a local config.json "
            "or a name that `estimator models` lists"
        ) from None


def _downloaded(model: str, file: str) -> dict[str, Any]:
    """The file as the hub has it, whose size is asked first. A cache that cannot be written is done without."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import disable_progress_bars

    _reach()
    _bound_answers()
    size = get_hf_file_metadata(hf_hub_url(model, file)).size
    if size is None or size > LARGEST:
        raise InputError(
            f"{file} of '{model}' has {'no size' if size is None else f'{size:,} bytes'} on the hub, and at most "
            f"{LARGEST:,} are read; give a local config.json"
        )
    disable_progress_bars()
    try:
        return read_json(Path(hf_hub_download(model, file, force_download=True)))
    except OSError:
        with tempfile.TemporaryDirectory() as folder:
            return read_json(Path(hf_hub_download(model, file, local_dir=folder)))


def _reach() -> None:
    """Raise ``OSError`` where nothing answers at the hub's address. Its library would keep trying for half a minute."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    address = urlsplit(ENDPOINT)
    if address.hostname and not getproxies() and not HF_HUB_OFFLINE:
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()


_asking = threading.local()
"""Has ``bound`` in a thread that asks for a config.json. Others, which may download weights, are left alone."""


def _bound_answers() -> None:
    """Cut each answer to this thread off after ``LARGEST`` bytes.

    The library asks on its own account, too (``utils/_detect_agent.py``), and reads whatever comes.
    """
    from huggingface_hub.utils import get_session

    _asking.bound = True
    hooks = getattr(get_session(), "event_hooks", None)  # of httpx; earlier releases have requests
    if hooks is not None and _bounded not in hooks["response"]:
        get_session().event_hooks = {
            "request": [*hooks["request"], _plainly],
            "response": [*hooks["response"], _bounded],
        }


def _plainly(request: Any) -> None:
    if hasattr(_asking, "bound"):
        request.headers["accept-encoding"] = "identity"


def _bounded(response: Any) -> None:
    if not hasattr(_asking, "bound"):
        return
    library: Any = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, by whatever name
    stream = response.stream

    class Bounded(library.SyncByteStream):  # type: ignore[misc]
        close = staticmethod(stream.close)

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in stream:
                size += len(chunk)
                if size > LARGEST:
                    raise OSError(f"an answer of more than {LARGEST:,} bytes")
                yield chunk

    response.headers.pop("content-encoding", None)  # was not asked for, and may expand to any size
    response.stream = Bounded()
