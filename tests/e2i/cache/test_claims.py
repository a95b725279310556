from __future__ import annotations

from cache_world import World

from e2i.cache.claims import claim, forget_claims


def test_a_chunk_is_claimed_once_until_it_is_forgotten(world: World) -> None:
    plan = world.plan()
    chunks = (*plan.audio_chunks, *plan.text_chunks)
    assert all(claim(world.folder, chunk) for chunk in chunks)
    assert not any(claim(world.folder, chunk) for chunk in world.plan().audio_chunks)
    assert len(world.folder.files("claims")) == len(chunks)
    forget_claims(world.folder)
    assert world.folder.files("claims") == []
    assert claim(world.folder, chunks[0])
