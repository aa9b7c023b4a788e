"""What every storage promises."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from dicomnode.errors import NotFound, PluginError, Unavailable
from dicomnode.ports.storage import Deferring, FreeSpace, LocalPath, Storage

KEY = "default/20240102/1.2.3/1.2.3.4/1.2.3.4.5-0123456789abcdefghij.dcm"

NO_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "../x",
    "../../x",
    "a/../b",
    "a/./b",
    ".",
    "..",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "/a",
    "a\x00b",
    "a\n",
    "a\nb",
    "a b",
    "a ",
    "..\\x",
    "a\\..\\b",
    "C:x",
    "ä",
    "\uff11",  # a digit, but no ASCII one
    "a/" + "1" * 256,
    "1" * 300,
    "/".join(["1" * 100] * 11),
    "~x",
    "a%2e%2e",
]


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def keys(storage: Storage, prefix: str = "") -> list[str]:
    return sorted([found.key async for found in storage.list(prefix)])


async def test_put_returns_the_size_and_read_the_bytes(storage: Storage) -> None:
    assert await storage.put(KEY, [b"head", bytearray(b"er"), memoryview(b"_body")]) == 11
    assert await storage.read(KEY) == b"header_body"
    assert await storage.size(KEY) == 11


async def test_rest_is_appended(storage: Storage) -> None:
    assert await storage.put(KEY, [b"a"], chunks(b"b" * 1000, b"", b"c")) == 1002
    assert await storage.read(KEY) == b"a" + b"b" * 1000 + b"c"


async def test_head_may_be_empty_or_of_many_parts(storage: Storage) -> None:
    assert await storage.put("a/empty", []) == 0
    assert await storage.read("a/empty") == b""
    many = [bytes([number % 256]) for number in range(3000)]
    assert await storage.put("a/many", many) == 3000
    assert await storage.read("a/many") == b"".join(many)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (8, 10, b"89"),
        (10, 5, b""),
        (99, 5, b""),
        (99, None, b""),
        (4, 0, b""),
    ],
)
async def test_read_a_range(storage: Storage, offset: int, length: int | None, expected: bytes) -> None:
    await storage.put(KEY, [b"0123456789"])
    for _ in range(2):  # the second time it may come from what the first left open
        assert await storage.read(KEY, offset, length) == expected


async def test_read_refuses_what_is_negative(storage: Storage) -> None:
    await storage.put(KEY, [b"x"])
    with pytest.raises(ValueError, match="negative"):
        await storage.read(KEY, -1)
    with pytest.raises(ValueError, match="negative"):
        await storage.read(KEY, 0, -1)


async def test_what_is_not_there(storage: Storage) -> None:
    await storage.put("a/b/c", [b"x"])
    for key in (KEY, "a/b", "a/b/c/d", "a"):
        assert await storage.size(key) is None
        with pytest.raises(NotFound):
            await storage.read(key)
    await storage.delete([KEY, "a/b/c/d"])
    assert await storage.read("a/b/c") == b"x"


@pytest.mark.parametrize("key", NO_KEYS)
async def test_what_is_no_key_is_refused_before_anything_is_touched(storage: Storage, key: str) -> None:
    await storage.put(KEY, [b"x"])
    with pytest.raises(ValueError, match="key") as refused:
        await storage.put(key, [b"y"])
    assert not key or key not in str(refused.value) or len(key) < 4, "the message may name a patient"
    with pytest.raises(ValueError, match="key"):
        await storage.read(key)
    with pytest.raises(ValueError, match="key"):
        await storage.size(key)
    with pytest.raises(ValueError, match="key"):
        await storage.delete([KEY, key])
    if isinstance(storage, LocalPath):
        with pytest.raises(ValueError, match="key"):
            storage.path(key)
    assert await keys(storage) == [KEY]


@pytest.mark.parametrize("key", ["a", "...", "a..b", ".a", "-", "_", "1" * 255, "/".join(["1" * 100] * 10), "A/a"])
async def test_odd_keys_are_keys(storage: Storage, key: str) -> None:
    await storage.put(key, [b"x"])
    assert await storage.read(key) == b"x"
    assert await keys(storage) == [key]


@pytest.mark.parametrize("prefix", ["a", "../", "/", "a/../", "a//"])
async def test_list_refuses_what_is_no_prefix(storage: Storage, prefix: str) -> None:
    with pytest.raises(ValueError, match="key"):
        await keys(storage, prefix)


async def test_a_key_is_written_once(storage: Storage) -> None:
    await storage.put(KEY, [b"first"])
    with pytest.raises(Unavailable):
        await storage.put(KEY, [b"second"])
    with pytest.raises(Unavailable):
        await storage.put(KEY, [b"third"], chunks(b"x"))
    assert await storage.read(KEY) == b"first"


async def test_list_by_prefix(storage: Storage) -> None:
    for key in ("a/1/x", "a/1/y", "a/10/x", "b/x"):
        await storage.put(key, [b"12"])
    assert await keys(storage) == ["a/1/x", "a/1/y", "a/10/x", "b/x"]
    assert await keys(storage, "a/1/") == ["a/1/x", "a/1/y"]
    assert await keys(storage, "c/") == []
    assert await keys(storage, "b/x/") == []
    assert [found.size async for found in storage.list("b/")] == [2]


async def test_delete_frees_the_keys(storage: Storage) -> None:
    for number in range(5):
        await storage.put(f"a/b/{number}", [b"x"])
        assert await storage.read(f"a/b/{number}") == b"x"
    await storage.delete([f"a/b/{number}" for number in range(4)] + ["a/b/0"])
    assert await keys(storage) == ["a/b/4"]
    with pytest.raises(NotFound):
        await storage.read("a/b/0")
    await storage.delete(["a/b/4"])
    await storage.put("a/b/4", [b"again"])
    assert await storage.read("a/b/4") == b"again"


async def test_a_failing_stream_leaves_nothing(storage: Storage) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise RuntimeError("the sender went away")

    with pytest.raises(RuntimeError, match="went away"):
        await storage.put(KEY, [b"head"], broken())
    assert await storage.size(KEY) is None
    assert await keys(storage) == []
    await storage.put(KEY, [b"head"])


async def test_a_cancelled_stream_leaves_nothing(storage: Storage) -> None:
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        reached.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(storage.put(KEY, [b"head"], endless()))
    await reached.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert await keys(storage) == []


async def test_a_cancelled_put_leaves_nothing_or_has_ended(storage: Storage) -> None:
    for spins in range(6):
        key = f"a/{spins}"
        put = asyncio.create_task(storage.put(key, [b"x" * 200_000]))
        for _ in range(spins):
            await asyncio.sleep(0)
        put.cancel()
        try:
            await put
        except asyncio.CancelledError:
            assert await storage.size(key) is None
        else:
            assert await storage.size(key) == 200_000


async def test_many_at_once_keep_their_bytes(storage: Storage) -> None:
    async def one(number: int) -> None:
        body = hashlib.sha256(str(number).encode()).digest() * 500
        key = f"t/{number % 7}/{number % 3}/{number}"
        rest = chunks(body[5000:]) if number % 2 else None
        assert await storage.put(key, [body[:5000]] if rest else [body], rest) == len(body)
        assert await storage.read(key) == body

    await asyncio.gather(*(one(number) for number in range(100)))
    assert len(await keys(storage)) == 100


async def test_puts_and_deletes_of_neighbours_do_not_meet(storage: Storage) -> None:
    async def come_and_go(name: str) -> None:
        for number in range(25):
            key = f"same/folder/{name}-{number}"
            await storage.put(key, [b"x"])
            await storage.delete([key])

    await asyncio.gather(*(come_and_go(name) for name in "abcdefgh"))
    assert await keys(storage) == []


async def test_of_two_puts_of_a_key_one_wins(storage: Storage) -> None:
    done = await asyncio.gather(
        *(storage.put(KEY, [bytes([number]) * 1000]) for number in range(8)), return_exceptions=True
    )
    assert [result for result in done if not isinstance(result, BaseException)] == [1000]
    assert all(isinstance(result, PluginError) for result in done if result != 1000)
    assert len(set(await storage.read(KEY))) == 1


async def test_a_large_stream(storage: Storage) -> None:
    block = bytes(range(256)) * 4096
    assert await storage.put(KEY, [b"!"], chunks(*[block] * 40)) == 1 + 40 * len(block)
    assert await storage.read(KEY, 1 + 39 * len(block) + 5, 10) == block[5:15]
    assert hashlib.sha256(await storage.read(KEY, 1)).digest() == hashlib.sha256(block * 40).digest()


async def test_buffers_may_be_used_again_after_the_put(storage: Storage) -> None:
    buffer = bytearray(b"first")
    await storage.put("a/1", [memoryview(buffer)])
    buffer[:] = b"other"
    assert await storage.read("a/1") == b"first"


async def test_ping(storage: Storage) -> None:
    await storage.ping()
    assert await keys(storage) == []


async def test_a_local_path_is_the_file(storage: Storage) -> None:
    if not isinstance(storage, LocalPath):
        pytest.skip("no local files: path() was not tested")
    await storage.put(KEY, [b"here"])
    assert storage.path(KEY).read_bytes() == b"here"
    assert not storage.path("a/b").exists()


async def test_what_is_free_is_told_without_what_is_kept(storage: Storage) -> None:
    if not isinstance(storage, FreeSpace):
        pytest.skip("it does not know: free_bytes() was not tested")
    before = await storage.free_bytes()
    await storage.put(KEY, [bytes(1024 * 1024)])
    after = await storage.free_bytes()
    assert before > 0
    assert after >= 0


@pytest.mark.parametrize("count", [1, 50])
async def test_what_is_put_soon_is_there_at_once_and_can_be_settled(storage: Storage, count: int) -> None:
    if not isinstance(storage, Deferring):
        pytest.skip("the storage keeps nothing for later: no Deferring")
    names = [f"a/{number % 3}/{number}" for number in range(count)]
    for name in names:
        assert await storage.put_soon(name, [b"he", memoryview(b"ad"), name.encode()]) == 4 + len(name)
        assert await storage.read(name) == b"head" + name.encode()
    with pytest.raises(Unavailable):
        await storage.put_soon(names[0], [b"again"])
    await storage.settle([*names, "a/nothing", "no/such/folder/at/all"])
    await storage.settle(names)
    await storage.settle([])
    assert await keys(storage) == sorted(names)
    await storage.delete(names)
    await storage.settle(names)
    assert await keys(storage) == []


@pytest.mark.parametrize("key", NO_KEYS)
async def test_no_other_key_is_put_soon_or_settled(storage: Storage, key: str) -> None:
    if not isinstance(storage, Deferring):
        pytest.skip("the storage keeps nothing for later: no Deferring")
    with pytest.raises(ValueError, match="key"):
        await storage.put_soon(key, [b"x"])
    with pytest.raises(ValueError, match="key"):
        await storage.settle([key])
