"""What the addresses of the service answer."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator

import httpx
import pandas as pd
import pytest
from PIL import Image

from cotune.explain.explainer import Explainer
from cotune.predict import Predictor
from cotune.run import Run
from cotune.serve.app import Serving
from cotune.serve.bodies import BodyReader
from cotune.serve.guard import Keys
from cotune.serve.limits import Limits, RefusedError
from explained import random_run
from served import Served, b64, many_fields_run, png, running, served_model
from tiny import Zoo

LIMITS = Limits(body_bytes=200_000, image_pixels=40_000, batch=4, text_characters=1000, queue=20, body_seconds=1)
TEXT = {"text": "a good day"}


@pytest.fixture(scope="module")
def run(zoo: Zoo) -> Run:
    return random_run(zoo)


@pytest.fixture(scope="module")
def many(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("many")
    return {task: many_fields_run(zoo, folder / task, task) for task in ("multi-label", "regression")}


@pytest.fixture(scope="module")
def service(run: Run, many: dict[str, Run]) -> Iterator[Served]:
    models = [
        served_model(run, "pair", LIMITS, explainer=lambda: Explainer(run, device="cpu")),
        *(served_model(other, task, LIMITS, explainer=None) for task, other in many.items()),
    ]
    with running(models, Serving(limits=LIMITS)) as served:
        yield served


@pytest.fixture
def client(service: Served) -> Iterator[httpx.Client]:
    with service.client() as found:
        yield found


def problem(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["request_id"] == answer.headers["x-request-id"]
    return str(error["message"])


# ---- predictions -----------------------------------------------------------------------------------------


def test_a_batch_and_a_form_give_what_predict_gives(client: httpx.Client, run: Run) -> None:
    image = png()
    table = pd.DataFrame(
        {"id": list("ab"), "text": ["a good day", None], "image": [image, image], "row": [1, 2]}, dtype=object
    )
    expected = Predictor(run, device="cpu").frame(table)
    posts = [{"id": "a", "fields": {**TEXT, "image": b64(image)}}, {"fields": {"text": None, "image": b64(image)}}]
    answer = client.post("/v1/predict", json={"posts": posts}).json()
    assert answer["model"] == "pair"
    assert answer["run"] == Predictor(run, device="cpu").weights_hash
    for i, found in enumerate(answer["predictions"]):
        assert found["label"] == expected["label"][i]
        assert found["probabilities"] == pytest.approx({c: expected[f"p_{c}"][i] for c in run.classes}, abs=1e-5)
        assert found["shares"] == pytest.approx(
            {"text": expected["text_share"][i], "image": expected["image_share"][i]}
        )
        assert (found["value"], found["error"]) == (None, None)
    assert [found["id"] for found in answer["predictions"]] == ["a", None]
    form = client.post("/v1/predict", data=TEXT, files={"image": image}).json()
    assert form["predictions"][0]["probabilities"] == pytest.approx(answer["predictions"][0]["probabilities"], abs=1e-5)


def test_several_labels_and_a_number_with_any_fields(client: httpx.Client, many: dict[str, Run]) -> None:
    fields = {"title": "good", "caption": "bad", "image": b64(png()), "about": {"likes": 3, "device": "web"}}
    post = {"posts": [{"fields": fields}, {"fields": {"about": {"likes": "many"}}}, {"fields": {"about": {}}}]}
    found, bad, empty = client.post("/v1/predict", json={"model": "multi-label", **post}).json()["predictions"]
    thresholds = dict(zip(many["multi-label"].classes, many["multi-label"].task.settings()["thresholds"], strict=True))
    assert found["label"] == [name for name, p in found["probabilities"].items() if p >= thresholds[name]]
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert (bad["label"], empty["label"]) == (None, None)
    assert "about.likes: expected a number" in bad["error"]
    assert "many" not in bad["error"]
    assert empty["error"] == "the post has no title and no caption and no image and no about"
    answer = client.post("/v1/predict", json={"model": "regression", **post}).json()["predictions"][0]
    assert answer["label"] == answer["value"] != 0
    assert answer["probabilities"] is None
    parts = {"model": "regression", "title": "good", "caption": "bad", "about.likes": "3", "about.device": "web"}
    form = client.post("/v1/predict", data=parts, files={"image": png()}).json()["predictions"][0]
    assert form["value"] == pytest.approx(answer["value"], abs=1e-4)


def test_an_image_that_cannot_be_read_spoils_no_other_post(client: httpx.Client) -> None:
    cut = png(90, 90)[:-30]
    posts = [{"fields": {"image": b64(data)}} for data in (b"no image", cut, png(), png(300, 300))]
    answer = client.post("/v1/predict", json={"posts": posts})
    assert answer.status_code == 200
    errors = [found["error"] for found in answer.json()["predictions"]]
    assert errors[0].startswith("image: the image cannot be read; send JPEG")
    assert errors[1] == "the image is cut short"
    assert errors[2] is None
    assert errors[3] == "image: the image has more than 40,000 pixels"
    assert "cut short" in problem(client.post("/v1/predict", files={"image": cut}), 422, "unusable_post")
    problem(client.post("/v1/predict", files={"image": b"no image"}, data=TEXT), 422, "unusable_post")
    problem(client.post("/v1/predict", files={"image": png(300, 300)}), 413, "unusable_post")
    problem(client.post("/v1/predict", files={"image": b""}), 422, "unusable_post")


@pytest.mark.parametrize(
    "place", ["/etc/passwd", "https://example.org/a.png", "file:///etc/passwd", "~/a.png", "a.png"]
)
def test_no_path_and_no_url_is_ever_read(client: httpx.Client, place: str) -> None:
    assert "is not base64" in problem(
        client.post("/v1/predict", json={"posts": [{"fields": {"image": place}}]}), 422, "invalid_field"
    )
    for content in (place.encode(), b64(place.encode()).encode(), b"data:image/png;base64," + b64(png()).encode()):
        problem(client.post("/v1/predict", files={"image": content}), 422, "unusable_post")
    inside = client.post("/v1/predict", json={"posts": [{"fields": {"image": b64(place.encode())}}]}).json()
    assert "cannot be read" in inside["predictions"][0]["error"]


def test_an_icon_that_holds_more_pixels_than_it_says(client: httpx.Client) -> None:
    inner = png(1000, 1000)
    head = bytes([0, 0, 1, 0, 1, 0, 16, 16, 0, 0, 1, 0, 32, 0])
    icon = head + len(inner).to_bytes(4, "little") + (22).to_bytes(4, "little") + inner
    assert "pixels" in problem(client.post("/v1/predict", files={"image": icon}), 413, "unusable_post")


# ---- what is refused -------------------------------------------------------------------------------------


def test_each_kind_of_bad_input_has_its_answer(client: httpx.Client) -> None:
    def asked(**body: object) -> httpx.Response:
        return client.post("/v1/predict", json=body)

    one = [{"fields": TEXT}]
    assert problem(asked(posts=[]), 422, "invalid_request").startswith("posts: ")
    assert problem(asked(posts=[{"fields": {"text": 3}}]), 422, "invalid_request").startswith("posts.0.fields.text: ")
    assert problem(asked(posts=[*one, {"fields": {"text": {}}}]), 422, "invalid_field") == (
        "posts.1.fields.text: expected a string"
    )
    assert problem(asked(posts=[{"id": 3, **one[0]}]), 422, "invalid_request").startswith("posts.0.id: ")
    assert "it reads text, image" in problem(asked(posts=[{"fields": {"foo": "x"}}]), 422, "unknown_field")
    problem(asked(posts=one, more=1), 422, "invalid_request")
    problem(asked(posts=one * 5), 413, "batch_too_long")
    problem(asked(posts=[{"fields": {"text": "a" * 1001}}]), 413, "text_too_long")
    assert "pair, multi-label, regression" in problem(asked(posts=one, model="x"), 404, "unknown_model")
    problem(
        client.post("/v1/predict", content=b"{" * 5000, headers={"content-type": "application/json"}),
        422,
        "invalid_json",
    )
    problem(client.post("/v1/predict", content=b"x"), 415, "unsupported_type")
    problem(
        client.post("/v1/predict", content=b"x", headers={"content-type": "multipart/form-data"}), 422, "invalid_form"
    )
    problem(client.post("/v1/predict", data={"foo": "x"}, files={"image": png()}), 422, "unknown_field")
    problem(client.post("/v1/predict", files=[("image", png()), ("image", png())]), 422, "invalid_field")
    problem(client.post("/v1/predict", files={"text": b"a"}), 422, "invalid_field")
    problem(client.post("/v1/predict", files={"text": (None, b"\xff"), "image": png()}), 422, "invalid_field")
    problem(client.post("/v1/predict", files=[("text", (None, b"a"))] * 30), 422, "invalid_form")
    half = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nabc'
    problem(
        client.post("/v1/predict", content=half, headers={"content-type": "multipart/form-data; boundary=x"}),
        422,
        "invalid_form",
    )
    problem(client.get("/v1/predict"), 405, "method_not_allowed")
    problem(client.get("/v2"), 404, "not_found")


def test_large_bodies_with_and_without_a_length(client: httpx.Client) -> None:
    large = b"x" * 300_000
    as_json = {"content-type": "application/json"}
    problem(client.post("/v1/predict", content=large, headers=as_json), 413, "body_too_large")
    problem(client.post("/v1/predict", content=iter([large[:100_000]] * 3), headers=as_json), 413, "body_too_large")
    assert client.post("/v1/predict", json={"posts": [{"fields": TEXT}]}).status_code == 200


@pytest.mark.parametrize(
    "inside", [b"1", b"{}", b'{"a":1}', b'{"fields":{"text":1}}', b'{"fields":{"about":{"x":[]}}}']
)
def test_json_of_a_million_mistakes_is_refused_at_once(run: Run, inside: bytes) -> None:
    bodies = BodyReader([served_model(run)], Limits())
    n = 1_000_000 // (inside.count(b"{") + 1) - 10
    lists = b'{"posts":[' + (inside + b",") * n + inside + b"]}"
    objects = b'{"posts":[{"fields":{' + b",".join(b'"%d":%s' % (i, inside) for i in range(2000)) + b"}}]}"
    started = time.process_time()
    for body in (lists, objects, lists * 3):
        with pytest.raises(RefusedError) as refused:
            bodies._json(body)
        assert refused.value.status in (413, 422)
    assert time.process_time() - started < 5


def test_nothing_of_a_post_is_in_an_error_or_a_log(service: Served, client: httpx.Client) -> None:
    mark = "Zq7secret"
    as_json = {"content-type": "application/json"}
    ppm = f"P6 {mark}{mark} 3 255 ".encode() + bytes(60)
    bodies = [
        {"posts": [{"fields": {mark: mark}}]},
        {"posts": [{"fields": {"text": [mark]}}]},
        {"posts": [{"fields": {"image": mark + "!"}}]},
        {"posts": [{"fields": {"image": b64(ppm)}}]},
        {"posts": [{"id": mark, "fields": {"image": b64(mark.encode())}}], "model": mark},
        {"posts": mark, mark: mark},
        {
            "model": "multi-label",
            "posts": [{"fields": {"about": {"likes": mark}}}, {"fields": {"title": {mark: mark}}}],
        },
        {"model": "multi-label", "posts": [{"fields": {"about": {mark: 1}}}]},
        {"model": "multi-label", "posts": [{"fields": {"about": {"likes": [mark]}}}]},
    ]
    answers = [client.post(path, json=body) for body in bodies for path in ("/v1/predict", "/v1/explain")]
    answers += [
        client.post("/v1/predict", content=mark, headers=as_json),
        client.post("/v1/predict", content=f'{{"posts": [{{"fields": {{"text": "{mark}', headers=as_json),
        client.post("/v1/predict", data={mark: mark}, files={"image": ppm}),
        client.post("/v1/predict", data={"text": mark}, files={"image": (mark, ppm, mark)}),
        client.get(f"/{mark}", params={mark: mark}),
        client.request(mark, "/v1/model"),
        client.post("/v1/predict", data={"text": mark}, files={"image": png()}, headers={mark: mark}),
    ]
    assert {answer.status_code for answer in answers} >= {200, 404, 422}
    assert max(answer.status_code for answer in answers) < 500
    assert not [answer.text for answer in answers if mark in answer.text]
    assert not [line for line in service.lines if mark in line]
    last = json.loads(service.lines[-1])
    assert last.keys() == {"time", "level", "event", "method", "path", "status", "ms", "request_id", "model"}
    assert (last["path"], last["model"], last["status"]) == ("/v1/predict", "pair", 200)


# ---- who may ask -----------------------------------------------------------------------------------------


def test_keys(run: Run) -> None:
    key = "k" * 20
    with running([served_model(run)], Serving(keys=Keys([key, "another-long-key-1"]))) as served, served.client() as c:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}, {"Authorization": f"Basic {key}"}):
            for path in ("/v1/model", "/metrics"):
                answer = c.get(path, headers=headers)
                problem(answer, 401, "no_key")
                assert answer.headers["www-authenticate"] == "Bearer"
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": "another-long-key-1"}):
            assert c.get("/v1/model", headers=headers).status_code == 200
        assert c.get("/healthz").status_code == c.get("/readyz").status_code == 200
        assert "key" in c.get("/openapi.json").json()["components"]["securitySchemes"]


def test_other_names_and_other_sites(run: Run) -> None:
    with running([served_model(run)], Serving(hosts=("127.0.0.1",))) as served, served.client() as c:
        problem(c.get("/v1/model", headers={"Host": "rebound.example"}), 403, "unknown_host")
        problem(c.get("/v1/model", headers={"Sec-Fetch-Site": "cross-site"}), 403, "other_site")
        form = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        problem(c.post("/v1/predict", headers=form, data={"text": "a"}), 403, "other_site")
        assert c.get("/healthz", headers=form).status_code == 200
        assert c.get("/v1/model").status_code == 200


def test_every_answer_has_the_security_headers_and_an_id(client: httpx.Client) -> None:
    for answer in (client.get("/v1/model"), client.get("/nowhere"), client.post("/v1/predict", content=b""),
                   client.options("/v1/predict", headers={"Origin": "https://example.org"})):  # fmt: skip
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers
    assert client.get("/healthz", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/healthz", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"


# ---- models, explanations, metrics ------------------------------------------------------------------------


def test_what_is_said_of_the_models(client: httpx.Client, many: dict[str, Run]) -> None:
    answer = client.get("/v1/model").json()
    assert answer["default"] == "pair"
    assert answer["limits"] == {"body_bytes": 200_000, "image_pixels": 40_000, "batch": 4, "text_characters": 1000}
    pair, several, number = answer["models"]
    assert (pair["task"], pair["engine"], pair["explains"], several["explains"]) == (
        "single-label",
        "torch",
        True,
        False,
    )
    assert [(each["name"], each["kind"]) for each in pair["fields"]] == [("text", "text"), ("image", "image")]
    about = several["fields"][3]
    assert about == {
        "name": "about", "kind": "table", "columns": ["likes", "device"], "categories": {"device": ["phone", "web"]}
    }  # fmt: skip
    assert several["thresholds"].keys() == set(several["labels"]) == set(many["multi-label"].classes)
    assert (number["labels"], number["thresholds"]) == (None, None)


def test_an_explanation(client: httpx.Client, run: Run) -> None:
    post = {**TEXT, "image": b64(png())}
    answer = client.post("/v1/explain", json={"posts": [{"id": "a", "fields": post}]}).json()
    assert answer["prediction"]["id"] == "a"
    assert answer["explained"] == answer["prediction"]["label"]
    assert [word["word"] for word in answer["words"]["text"]] == ["a", "good", "day"]
    assert [TEXT["text"][word["start"] : word["end"]] for word in answer["words"]["text"]] == ["a", "good", "day"]
    assert answer["contributions"].keys() == {"text", "image"}
    head, _, data = answer["overlays"]["image"].partition(",")
    assert head == "data:image/png;base64"
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 480
    same = client.post("/v1/predict", json={"posts": [{"fields": post}]}).json()["predictions"][0]
    assert answer["prediction"]["probabilities"] == pytest.approx(same["probabilities"], abs=1e-5)
    form = client.post("/v1/explain", files={"text": (None, TEXT["text"])}).json()
    assert form["overlays"] == {}
    problem(client.post("/v1/explain", json={"posts": [{"fields": TEXT}] * 2}), 422, "one_post")
    problem(client.post("/v1/explain", json={"posts": [{"fields": {}}]}), 422, "unusable_post")
    problem(client.post("/v1/explain", files={"image": png(90, 90)[:-30]}), 422, "unusable_post")
    problem(client.post("/v1/explain", json={"model": "regression", "posts": [{"fields": {}}]}), 409, "not_explainable")


def test_metrics(client: httpx.Client) -> None:
    def count(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    asked = 'cotune_requests_total{method="POST",path="/v1/predict",status="200"}'
    predicted = 'cotune_posts_total{model="pair",outcome="predicted"}'
    before, posts = count(asked), count(predicted)
    client.post("/v1/predict", json={"posts": [{"fields": TEXT}] * 3})
    client.request("WEIRD", "/v1/predict/secret")
    assert (count(asked), count(predicted)) == (before + 1, posts + 3)
    assert count('cotune_requests_total{method="other",path="other"') >= 1
    assert count("cotune_queue_posts") == 0


def test_openapi_describes_both_forms(client: httpx.Client) -> None:
    found = client.get("/openapi.json").json()
    content = found["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    parts = content["multipart/form-data"]["schema"]["properties"]
    assert parts["image"] == {"type": "string", "format": "binary"}
    assert {"text", "about.likes", "title"} <= parts.keys()
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert found["components"]["schemas"][name]["properties"].keys() == {"model", "posts"}
    assert "Post" in found["components"]["schemas"]
