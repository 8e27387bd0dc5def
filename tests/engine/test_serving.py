"""The worker that answers on the page, in this process."""

import io
import json

from engine.models.load import load_base
from engine.models.roles import Roles
from engine.serving.worker import KEPT, Asked, Worker
from tests.engine.toys import shake


def request(base, number=1, **more):
    """One for an answer of up to twelve tokens."""
    sampling, messages = {"max_new_tokens": 12}, [{"role": "user", "content": "w1"}]
    asked = {"id": number, "op": "generate", "base": str(base), "seeds": [1], "sampling": sampling}
    return {**asked, "messages": messages, **more}


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
        worker.generate(request(tiny_folder, adapter=folder))
        return json.loads(out.getvalue().splitlines()[-1])["answers"][0]["text"]

    first = [answered(folder) for folder in versions]
    assert len(set(first)) > 2
    assert worker.roles.names() == [f"v{n}" for n in range(2, KEPT + 2)]
    answered(versions[2])  # it is the last now
    assert answered(versions[0]) == first[0]
    assert set(worker.roles.names()) == {"v0", "v2", *(f"v{n}" for n in range(4, KEPT + 2))}
    assert [answered(folder) for folder in [*versions, None]] == [*first, answered(None)]


def test_a_patient_request_lets_the_others_go_first_and_has_the_same_answer(tiny_folder):
    patient = request(tiny_folder, 1, seeds=list(range(8)), patient=True)
    undisturbed = io.StringIO()
    Worker(undisturbed).generate(patient)

    class Out(io.StringIO):
        """What comes to the worker while it writes: twice a question of somebody who waits, then the end."""

        def write(self, line):
            event = json.loads(line)
            if event["id"] == 1 and event["event"] == "text" and more:
                worker.asked.put(Asked(False, *more.pop()))
            if event["id"] == 1 and event["event"] == "done":
                worker.asked.put(Asked(False, 9, None))
            return super().write(line)

    more = [(3, request(tiny_folder, 3)), (2, request(tiny_folder, 2))]
    out = Out()
    worker = Worker(out)
    worker.asked.put(Asked(True, 1, patient))
    worker.asked.put(Asked(True, 4, request(tiny_folder, 4, patient=True)))
    worker.serve()
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    done = [event for event in events if event["event"] == "done"]
    assert [event["id"] for event in done] == [2, 3, 1]  # and not 4, for nobody is there any more
    assert done[-1] == json.loads(undisturbed.getvalue().splitlines()[-1])
    assert len(done[-1]["answers"]) == 8 and done[0]["answers"] == done[1]["answers"]
