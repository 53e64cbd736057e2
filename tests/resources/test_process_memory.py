"""What the C library's allocator keeps, and gives back when asked."""

import psutil

from contimg_resources.process_memory import give_back_freed_memory

N_BLOCKS, BLOCK_BYTES = 20_000, 2_000


def test_memory_freed_between_living_blocks_is_given_back():
    """Of 40 MB in small blocks, of which one in a thousand lives on, most returns to the kernel; what lives is intact."""
    process = psutil.Process()
    blocks = [bytearray(b"x" * BLOCK_BYTES) for _ in range(N_BLOCKS)]
    living = blocks[::1000]
    full_bytes = process.memory_info().rss
    del blocks
    assert give_back_freed_memory()
    assert full_bytes - process.memory_info().rss > 0.8 * N_BLOCKS * BLOCK_BYTES
    assert all(block == b"x" * BLOCK_BYTES for block in living)
