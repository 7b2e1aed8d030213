"""Pickles of plain values: lists, tuples, dictionaries, numbers, text, true, false and none.

PyTorch writes memory snapshots as pickles. Unpickling runs what a file asks for, so ``pickle`` is not used here: each
instruction is one of those below, and none of them imports or calls anything. Their number, what they make and what
they keep are bounded. Source: ``pickletools.py`` of CPython.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NoReturn

from .errors import InputError
from .files import opened

MOST_BYTES = 1 << 28
MOST_INSTRUCTIONS = 60_000_000
"""Some fifteen seconds of work."""
MOST_VALUES = 10_000_000
"""The most values that are made, and the most that are remembered: some gigabytes at worst. A snapshot makes five for
each of its entries, since stacks are shared."""
MOST_WAITING = 1_000_000
"""The most values that wait to be put into a container. Python's own pickles have a thousand for each level."""
LONGEST_NUMBER = 16
"""The most bytes of a whole number."""

_PROTO, _FRAME, _STOP, _MARK = 0x80, 0x95, ord("."), ord("(")
_MEMOIZE, _BINPUT, _LONG_BINPUT, _BINGET, _LONG_BINGET = 0x94, ord("q"), ord("r"), ord("h"), ord("j")
_NONE, _TRUE, _FALSE = ord("N"), 0x88, 0x89
_BININT, _BININT1, _BININT2, _LONG1, _BINFLOAT = ord("J"), ord("K"), ord("M"), 0x8A, ord("G")
_SHORT_BINUNICODE, _BINUNICODE, _BINUNICODE8 = 0x8C, ord("X"), 0x8D
_EMPTY_LIST, _APPEND, _APPENDS, _LIST = ord("]"), ord("a"), ord("e"), ord("l")
_EMPTY_TUPLE, _TUPLE1, _TUPLE2, _TUPLE3, _TUPLE = ord(")"), 0x85, 0x86, 0x87, ord("t")
_EMPTY_DICT, _SETITEM, _SETITEMS, _DICT = ord("}"), ord("s"), ord("u"), ord("d")

_CONSTANTS = {_NONE: None, _TRUE: True, _FALSE: False}
_LENGTHS = {_SHORT_BINUNICODE: 1, _BINUNICODE: 4, _BINUNICODE8: 8}
_TUPLES = {_TUPLE1: 1, _TUPLE2: 2, _TUPLE3: 3}


def read_pickle(path: Path, wanted: str) -> Any:
    """The value in a file.

    Raises ``InputError`` for a file that is too large, damaged, or holds anything but plain values. The message asks
    for ``wanted``.
    """
    with opened(path, wanted) as file:
        try:
            content = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read '{path}': {error.strerror or error}; give {wanted}") from None
    try:
        return loads(content)
    except InputError as error:
        raise InputError(f"'{path}': {error}; give {wanted}") from None


def loads(content: bytes) -> Any:
    """The value of a pickle of protocols 2 to 5. Raises ``InputError``."""
    if len(content) > MOST_BYTES:
        raise InputError(f"it is larger than {MOST_BYTES >> 20} MiB")
    if content[:1] != bytes([_PROTO]) or content[1:2] not in _PROTOCOLS:
        raise InputError("it is no pickle of protocols 2 to 5")
    try:
        return _run(content)
    except (IndexError, KeyError, UnicodeDecodeError, struct.error):
        raise InputError("it is a damaged pickle; is it cut off?") from None


_PROTOCOLS = tuple(bytes([number]) for number in range(2, 6))


def _run(content: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    at = made = 0
    push = stack.append
    number = int.from_bytes

    for _ in range(MOST_INSTRUCTIONS):
        code = content[at]
        at += 1
        if code == _LONG_BINGET:
            push(memo[number(content[at : at + 4], "little")])
            at += 4
        elif code == _BINGET:
            push(memo[content[at]])
            at += 1
        elif code == _MEMOIZE:
            memo[len(memo)] = stack[-1]
        elif code == _MARK:
            marks.append(len(stack))
        elif code in _LENGTHS:
            width = _LENGTHS[code]
            length = number(content[at : at + width], "little")
            at += width
            if at + length > len(content):
                raise IndexError
            push(content[at : at + length].decode("utf-8", "surrogatepass"))
            at += length
            made += 1
        elif code == _BININT1:
            push(content[at])
            at += 1
        elif code == _BININT2:
            push(number(content[at : at + 2], "little"))
            at += 2
            made += 1
        elif code == _BININT:
            push(number(content[at : at + 4], "little", signed=True))
            at += 4
            made += 1
        elif code == _LONG1:
            length = content[at]
            if length > LONGEST_NUMBER:
                raise InputError(f"it has a whole number of {length} bytes")
            push(number(content[at + 1 : at + 1 + length], "little", signed=True))
            at += 1 + length
            made += 1
        elif code == _BINFLOAT:
            push(struct.unpack_from(">d", content, at)[0])
            at += 8
            made += 1
        elif code in _CONSTANTS:
            push(_CONSTANTS[code])
        elif code in (_EMPTY_LIST, _EMPTY_DICT, _EMPTY_TUPLE):
            push([] if code == _EMPTY_LIST else {} if code == _EMPTY_DICT else ())
            made += 1
        elif code == _SETITEMS:
            _set(stack, marks.pop())
        elif code == _SETITEM:
            _set(stack, len(stack) - 2)
        elif code == _APPENDS:
            _append(stack, marks.pop())
        elif code == _APPEND:
            _append(stack, len(stack) - 1)
        elif code in _TUPLES or code in (_TUPLE, _LIST):
            start = len(stack) - _TUPLES[code] if code in _TUPLES else marks.pop()
            if start < 0:
                raise IndexError
            stack[start:] = [stack[start:] if code == _LIST else tuple(stack[start:])]
            made += 1
        elif code == _DICT:
            start = marks.pop()
            stack.insert(start, {})
            _set(stack, start + 1)
            made += 1
        elif code == _BINPUT:
            memo[content[at]] = stack[-1]
            at += 1
        elif code == _LONG_BINPUT:
            memo[number(content[at : at + 4], "little")] = stack[-1]
            at += 4
        elif code == _FRAME:
            at += 8
        elif code == _PROTO:
            at += 1
        elif code == _STOP:
            return stack.pop()
        else:
            _refuse(code)
        if made > MOST_VALUES or len(memo) > MOST_VALUES:
            raise InputError(f"it has more than {MOST_VALUES:,} values")
        if len(stack) > MOST_WAITING or len(marks) > MOST_WAITING:
            raise InputError("it is nested too deeply")
    raise InputError(f"it has more than {MOST_INSTRUCTIONS:,} instructions")


def _append(stack: list[Any], start: int) -> None:
    """Append what is on the stack from ``start`` on to the list below."""
    target = stack[start - 1] if start > 0 else None
    if type(target) is not list:
        raise IndexError
    target.extend(stack[start:])
    del stack[start:]


def _set(stack: list[Any], start: int) -> None:
    """Put the keys and values on the stack from ``start`` on into the dictionary below.

    A key is text or a whole number: the hash of a deeply nested tuple could exhaust the interpreter's own stack.
    """
    target = stack[start - 1] if start > 0 else None
    keys = stack[start::2]
    if type(target) is not dict or (len(stack) - start) % 2 or not all(type(key) in (str, int) for key in keys):
        raise IndexError
    target.update(zip(keys, stack[start + 1 :: 2], strict=True))
    del stack[start:]


def _refuse(code: int) -> NoReturn:
    import pickletools

    name = next((one.name for one in pickletools.opcodes if one.code == chr(code)), None)
    if name is None:
        raise IndexError
    raise InputError(f"it holds more than lists, dictionaries, numbers and text ({name}), and nothing else is read")
