"""Pickles of plain values: lists, tuples, dictionaries, numbers, text, true, false and none.

PyTorch writes memory snapshots as pickles. Unpickling runs what a file asks for, so ``pickle`` is not used here: each
instruction is one of those below, and none of them imports or calls anything. Their number, what they make and what
they keep are bounded. Source: ``pickletools.py`` of CPython.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError
from .files import opened

MOST_BYTES = 1 << 27
MOST_INSTRUCTIONS = 8_000_000
"""Some three seconds of work: a hundred thousand entries with the frames of their stacks."""
MOST_HELD = 250 << 20
"""The most bytes that the values take, beside the file itself."""
MOST_WAITING = 1_000_000
"""The most values that wait to be put into a container. Python's own pickles have a thousand for each level."""
LONGEST_NUMBER = 16
"""The most bytes of a whole number."""
_CHECKED = 4096
"""Instructions between two looks at these limits."""
_NUMBER, _TEXT, _CONTAINER = 32, 56, 64
"""Bytes of a number, of a text beside its characters, and of a container beside its values, in CPython."""

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


def read_pickle(path: Path, wanted: str, keys: Collection[str] | None = None) -> Any:
    """The value in a file, its dictionaries with these ``keys`` alone.

    Raises ``InputError`` for a file that is too large, damaged, or holds anything but plain values. The message asks
    for ``wanted``.
    """
    with opened(path, wanted) as file:
        try:
            content = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read '{path}': {error.strerror or error}; give {wanted}") from None
    try:
        return loads(content, keys)
    except InputError as error:
        raise InputError(f"'{path}': {error}; give {wanted}") from None


def loads(content: bytes, keys: Collection[str] | None = None) -> Any:
    """The value of a pickle of protocols 2 to 5. Of dictionaries ``keys`` alone are kept. Raises ``InputError``."""
    if len(content) > MOST_BYTES:
        raise InputError(f"it is larger than {MOST_BYTES >> 20} MiB")
    if content[:1] != bytes([_PROTO]) or content[1:2] not in _PROTOCOLS:
        raise InputError("it is no pickle of protocols 2 to 5")
    try:
        return _run(content, None if keys is None else frozenset(keys))
    except (IndexError, KeyError, UnicodeDecodeError, struct.error):
        raise InputError("it is a damaged pickle; is it cut off?") from None


_PROTOCOLS = tuple(bytes([number]) for number in range(2, 6))


def _run(content: bytes, keys: frozenset[str] | None) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: list[Any] = []
    at = held = 0
    push, pop = stack.append, stack.pop
    number = int.from_bytes

    for done in range(0, MOST_INSTRUCTIONS, _CHECKED):
        for _ in range(min(_CHECKED, MOST_INSTRUCTIONS - done)):
            code = content[at]
            at += 1
            if code == _BINGET:
                push(memo[content[at]])
                at += 1
            elif code == _LONG_BINGET:
                push(memo[number(content[at : at + 4], "little")])
                at += 4
            elif code == _MEMOIZE:
                memo.append(stack[-1])
            elif code == _BININT2:
                push(number(content[at : at + 2], "little"))
                at += 2
                held += _NUMBER
            elif code == _BININT1:
                push(content[at])
                at += 1
            elif code == _MARK:
                marks.append(len(stack))
            elif code == _EMPTY_DICT:
                push({})
                held += _CONTAINER
            elif code == _SETITEMS:
                held += _set(stack, marks.pop(), keys)
            elif code == _LONG1:
                length = content[at]
                if length > LONGEST_NUMBER:
                    raise InputError(f"it has a whole number of {length} bytes")
                push(number(content[at + 1 : at + 1 + length], "little", signed=True))
                at += 1 + length
                held += _NUMBER
            elif code == _BININT:
                push(number(content[at : at + 4], "little", signed=True))
                at += 4
                held += _NUMBER
            elif code in _LENGTHS:
                width = _LENGTHS[code]
                length = number(content[at : at + width], "little")
                at += width
                if at + length > len(content):
                    raise IndexError
                text = content[at : at + length].decode("utf-8", "surrogatepass")
                push(text)
                at += length
                held += _TEXT + (length if text.isascii() else 4 * length)
            elif code in _PUTS:
                width = _PUTS[code]
                _put(memo, number(content[at : at + width], "little"), stack[-1])
                at += width
            elif code in _CONSTANTS:
                push(_CONSTANTS[code])
            elif code == _EMPTY_LIST:
                push([])
                held += _CONTAINER
            elif code == _EMPTY_TUPLE:
                push(())
            elif code == _APPENDS:
                held += _append(stack, marks.pop())
            elif code == _APPEND:
                held += _append(stack, len(stack) - 1)
            elif code == _SETITEM:
                held += _set(stack, len(stack) - 2, keys)
            elif code == _BINFLOAT:
                push(struct.unpack_from(">d", content, at)[0])
                at += 8
                held += _NUMBER
            elif code in _TUPLES or code in (_TUPLE, _LIST):
                start = len(stack) - _TUPLES[code] if code in _TUPLES else marks.pop()
                if start < 0:
                    raise IndexError
                held += _CONTAINER + 8 * (len(stack) - start)
                stack[start:] = [stack[start:] if code == _LIST else tuple(stack[start:])]
            elif code == _DICT:
                start = marks.pop()
                stack.insert(start, {})
                held += _CONTAINER + _set(stack, start + 1, keys)
            elif code == _FRAME:
                at += 8
            elif code == _PROTO:
                at += 1
            elif code == _STOP:
                return pop()
            else:
                _refuse(code)
        if held + 8 * len(memo) > MOST_HELD:
            raise InputError(f"its values take more than {MOST_HELD >> 20} MiB; record fewer (max_entries)")
        if len(stack) > MOST_WAITING or len(marks) > MOST_WAITING:
            raise InputError("it is nested too deeply")
    raise InputError(f"it has more than {MOST_INSTRUCTIONS:,} instructions; record fewer entries (max_entries)")


def _put(memo: list[Any], place: int, value: Any) -> None:
    """Remember a value. Those who write pickles count the places from zero on."""
    if place < len(memo):
        memo[place] = value
    elif place == len(memo):
        memo.append(value)
    else:
        raise IndexError


def _append(stack: list[Any], start: int) -> int:
    """Append what is on the stack from ``start`` on to the list below. Returns the bytes that it takes."""
    target = stack[start - 1] if start > 0 else None
    if type(target) is not list:
        raise IndexError
    size = len(stack) - start
    target.extend(stack[start:])
    del stack[start:]
    return 9 * size  # a list keeps an eighth in reserve


def _set(stack: list[Any], start: int, kept: frozenset[str] | None) -> int:
    """Put the keys and values on the stack from ``start`` on into the dictionary below. Returns the bytes they take.

    A key is text or a whole number: the hash of a deeply nested tuple could exhaust the interpreter's own stack.
    """
    target = stack[start - 1] if start > 0 else None
    keys = stack[start::2]
    if type(target) is not dict or (len(stack) - start) % 2 or not _KEYS.issuperset(map(type, keys)):
        raise IndexError
    before = sys.getsizeof(target)
    values = stack[start + 1 :: 2]
    if kept is None:
        target.update(zip(keys, values, strict=True))
    else:
        target.update([pair for pair in zip(keys, values, strict=True) if pair[0] in kept])
    del stack[start:]
    return sys.getsizeof(target) - before


_KEYS = frozenset([str, int])
_PUTS = {_BINPUT: 1, _LONG_BINPUT: 4}


def _refuse(code: int) -> NoReturn:
    import pickletools

    name = next((one.name for one in pickletools.opcodes if one.code == chr(code)), None)
    if name is None:
        raise IndexError
    raise InputError(f"it holds more than lists, dictionaries, numbers and text ({name}), and nothing else is read")
