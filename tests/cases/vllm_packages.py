"""Install a release of vLLM where there is no GPU: ``python tests/cases/vllm_packages.py 0.33.0 PYTHON``.

Its wheel goes in alone. Of what it requires, PyTorch is that for CPUs, and packages of GPU kernels are left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import Distribution

KERNELS = re.compile(
    r"(torch|torchaudio|torchvision|torchcodec|PyNvVideoCodec|flashinfer|apache-tvm|tilelang|nvidia|nvtx|quack|humming|"
    r"fastsafetensors|instanttensor|tokenspeed|xformers|ray|transformers|tensorizer)",
    re.IGNORECASE,
)
TRANSFORMERS = {"0.11.0": "transformers==4.57.*", "0.33.0": "transformers>=5.16.1,<5.21"}
CPU = "https://download.pytorch.org/whl/cpu"


def main(release: str, python: str) -> None:
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", f"vllm=={release}"], check=True)
    ask = "import importlib.metadata as m; print(m.distribution('vllm')._path.parent)"
    folder = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    found = Distribution.at(f"{folder}/vllm-{release}.dist-info").requires or []
    needed = [one for one in found if "extra ==" not in one and not KERNELS.match(one)]
    own = ["torch==2.13.0", "torchvision", TRANSFORMERS[release]]
    subprocess.run([*pip, "--extra-index-url", CPU, *own, *needed], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
