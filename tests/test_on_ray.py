"""Who is given up on a Ray cluster, and who is waited for; whole jobs on clusters are in tests/faults."""

from types import SimpleNamespace

import pytest

ray = pytest.importorskip("ray")

from edgetl.errors import DataError  # noqa: E402
from edgetl.stream import on_ray  # noqa: E402


class FailingCluster:
    """Actors are asked for and never start; with `losing`, because their nodes are lost."""

    def __init__(self, losing):
        self.losing, self.asked, self.lost, self.exceptions = losing, 0, 0, ray.exceptions

    def cluster_resources(self):
        return {"CPU": 1.0}

    def nodes(self):
        return [{"Alive": True}] + [{"Alive": False}] * self.lost

    def remote(self, **_options):
        def ready():
            self.asked += 1
            return f"call {self.asked}"

        actor = SimpleNamespace(__ray_ready__=SimpleNamespace(remote=ready))
        return lambda _class: SimpleNamespace(remote=lambda _told: actor)

    def get(self, _call):
        self.lost += self.losing
        raise ray.exceptions.ActorDiedError

    def kill(self, _actor):
        pass


def try_to_begin(crew, times):
    """Ask for actors so many times; each is welcomed as it fails."""
    for now in range(times):
        crew.recruit(now * on_ray._RECRUIT_SECONDS)
        for call in list(crew.coming):
            crew.welcome(call)


def test_nodes_that_live_and_cannot_begin_are_given_up(monkeypatch):
    cluster = FailingCluster(losing=False)
    monkeypatch.setattr(on_ray, "ray", cluster)
    with pytest.raises(DataError, match="5 nodes could not begin"):
        try_to_begin(on_ray._Crew(told=None), 100)
    assert cluster.asked == on_ray._MOST_ATTEMPTS


def test_nodes_that_are_lost_before_they_begin_are_waited_for(monkeypatch):
    """However many: others may come, and what was committed is safe."""
    cluster = FailingCluster(losing=True)
    monkeypatch.setattr(on_ray, "ray", cluster)
    crew = on_ray._Crew(told=None)
    try_to_begin(crew, 100)
    assert cluster.asked == 100
    assert not crew.actors
    assert not crew.failed
