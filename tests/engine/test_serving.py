"""The worker that answers on the page, in this process."""

import io
import json

from engine.models.load import load_base
from engine.models.roles import Roles
from engine.serving.worker import KEPT, Worker
from tests.engine.toys import shake


def test_it_keeps_the_adapters_that_answered_last(tiny_folder, tmp_path):
    versions = [str(tmp_path / str(n)) for n in range(KEPT + 2)]
    for n in range(len(versions)):
        roles = Roles(load_base(str(tiny_folder)))
        roles.add("policy", rank=4)
        shake(roles, "policy", scale=0.1 * (n + 1))
        roles.save("policy", tmp_path / str(n), {"kind": "policy"})

    out = io.StringIO()
    worker = Worker(out)

    def answered(folder):
        request = {
            "id": 1,
            "base": str(tiny_folder),
            "adapter": folder,
            "seeds": [1],
            "sampling": {"max_new_tokens": 12},
        }
        worker.generate({**request, "messages": [{"role": "user", "content": "w1"}]})
        return json.loads(out.getvalue().splitlines()[-1])["answers"][0]["text"]

    first = [answered(folder) for folder in versions]
    assert len(set(first)) > 2
    assert worker.roles.names() == [f"v{n}" for n in range(2, KEPT + 2)]
    answered(versions[2])  # it is the last now
    assert answered(versions[0]) == first[0]
    assert set(worker.roles.names()) == {"v0", "v2", *(f"v{n}" for n in range(4, KEPT + 2))}
    assert [answered(folder) for folder in [*versions, None]] == [*first, answered(None)]
