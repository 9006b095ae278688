"""The page: what a person sees and does, in a real browser, with a real model behind it."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api_answers import IMAGE, TEXT, drawing, explained, model, models, png, predicted, prediction
from axe import barriers
from browser import Visit, check_fits, visits
from cotune.explain.explainer import Explainer
from cotune.serve.app import Serving
from cotune.serve.guard import Keys
from cotune.serve.model import ServedModel
from cotune.serve.page.routes import page_routes
from explained import random_run
from served import running, served_model
from tiny import Zoo

KEY = "a key of more than sixteen letters"
SAID = "a good \U0001f600 happy day with the dog"


# ---- without a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files() -> TestClient:
    return TestClient(Starlette(routes=page_routes(examples=True)))


def test_the_page_has_no_inline_script_or_style_and_names_no_other_host(files: TestClient) -> None:
    page = files.get("/").text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]* src=)", page)
    scripts = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
    assert {"static/page.js", "static/page.css", "static/icon.svg"} <= set(scripts)
    imported = re.findall(
        r'from "\./([^"]+)"', "".join(files.get(f"/{name}").text for name in scripts if name.endswith("js"))
    )
    for name in {*scripts, *(f"static/{name}" for name in imported)}:
        answer = files.get(f"/{name}")
        assert answer.status_code == 200, name
        if not name.endswith((".webp", ".md")):
            assert not re.search(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9-]+\.[a-z]", answer.text), name
    assert page.count("data-image=") == 3


def test_what_a_browser_has_is_not_sent_again(files: TestClient) -> None:
    first = files.get("/static/page.js", headers={"Accept-Encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    assert first.headers["cache-control"] == "no-cache"
    again = files.get("/static/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = files.get("/static/page.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == first.text


@pytest.mark.parametrize("name", ["", "routes.py", "..%2froutes.py", "%2e%2e/%2e%2e/demo/data/posts.csv", "examples/"])
def test_nothing_but_the_files_of_the_page_is_answered(files: TestClient, name: str) -> None:
    assert files.get(f"/static/{name}").status_code == 404


def test_models_of_other_fields_have_no_examples() -> None:
    files = TestClient(Starlette(routes=page_routes(examples=False)))
    assert "data-image" not in files.get("/").text
    assert files.get("/static/examples/tweet-538.webp").status_code == 404
    assert files.get("/static/examples/LICENSES.md").status_code == 404


# ---- in Chromium -----------------------------------------------------------------------------------------

browser_test = pytest.mark.browser


@pytest.fixture(scope="module")
def served(zoo: Zoo) -> ServedModel:
    run = random_run(zoo)
    return served_model(run, explainer=lambda: Explainer(run, device="cpu"))


@pytest.fixture(scope="module")
def address(served: ServedModel) -> Iterator[str]:
    with running([served]) as service:
        yield f"{service.url}/"


@pytest.fixture(scope="module")
def locked_address(served: ServedModel) -> Iterator[str]:
    with running([served], Serving(keys=Keys([KEY]))) as service:
        yield f"{service.url}/"


def _always(answer: Any) -> Callable[[Any], None]:
    return lambda route: route.fulfill(json=answer)


class PageVisit(Visit):
    """The page of the service in a browser."""

    def open(self, address: str) -> Any:
        """Go there, and wait for the form."""
        policy = self.page.goto(address).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert not {"unsafe-inline", "unsafe-eval", "*", "https:"} & set(re.findall(r"[\w:*-]+", policy))
        self.page.locator("#open, #locked").locator("visible=true").first.wait_for()
        return self.page

    def answers(self, about: Any, found: Any = None, why: Any = None) -> None:
        """Answer in the place of the server."""
        for path, answer in (("model", about), ("predict", found), ("explain", why)):
            if answer is not None:
                self.page.route(f"**/v1/{path}", _always(answer))


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., PageVisit]]:
    with visits(chromium, PageVisit) as make:
        yield make


def image_file(name: str = "hill.png", data: bytes | None = None) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": png(drawing()) if data is None else data}


def ask(address: str, fields: dict[str, Any], path: str = "predict") -> Any:
    body = json.dumps({"posts": [{"id": "1", "fields": fields}]}).encode()
    request = urllib.request.Request(f"{address}v1/{path}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def percent(value: float) -> str:
    return "<1%" if 0 < value < 0.005 else ">99%" if 0.995 <= value < 1 else f"{int(100 * value + 0.5)}%"


def wait_for_text(page: Any, place: str, words: str) -> None:
    page.locator(place).filter(has_text=words).first.wait_for(state="attached")


@browser_test
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_a_post_is_uploaded_predicted_and_explained(
    address: str, visit: Callable[..., PageVisit], width: int, scheme: str
) -> None:
    page = visit(width, scheme).open(address)
    assert barriers(page) == []
    page.get_by_label("Text", exact=True).fill(SAID)
    page.get_by_label("Image", exact=True).set_input_files(image_file())
    page.get_by_role("img", name="Preview of image").wait_for()
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("heading", name="The image").wait_for()
    fields = {"text": SAID, "image": base64.b64encode(png(drawing())).decode()}
    found = ask(address, fields)["predictions"][0]
    answer = page.locator("#answer").inner_text()
    assert page.locator(".cx-big").inner_text() == found["label"]
    for name, probability in found["probabilities"].items():
        row = page.locator("#answer .bars tr").filter(has_text=name)
        assert row.locator(".num").inner_text() == percent(probability)
    for name, share in found["shares"].items():
        assert f"{name.capitalize()} {percent(share)}" in answer
    wait_for_text(page, "#status", "The explanation is below the prediction.")
    why = ask(address, fields, "explain")
    text = page.locator(".cx-words")
    assert text.inner_text() == SAID
    assert text.locator("mark").all_inner_texts() == [word["word"] for word in why["words"]["text"]]
    assert "\U0001f600" in SAID[: why["words"]["text"][-1]["start"]], "places after an emoji are right too"
    assert f"supports {found['label']}" in answer
    drawn = page.locator("#answer figure img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(drawn) == 2
    assert all(drawn)
    page.locator("summary").click()
    assert barriers(page) == []
    check_fits(page)
    shown = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert (shown == "rgb(20, 22, 26)") is (scheme == "dark")


def hand_over(page: Any, how: str, place: str, files: dict[str, bytes]) -> None:
    """Paste or drop files somewhere on the page."""
    given = [[name, base64.b64encode(data).decode()] for name, data in files.items()]
    page.evaluate(
        """([how, place, files]) => {
            const held = new DataTransfer();
            for (const [name, data] of files) {
                const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
                held.items.add(new File([bytes], name, {type: name.endsWith("png") ? "image/png" : "text/csv"}));
            }
            const about = {bubbles: true, cancelable: true};
            const event = how === "paste" ? new ClipboardEvent("paste", {...about, clipboardData: held})
                                          : new DragEvent("drop", {...about, dataTransfer: held});
            document.querySelector(place).dispatchEvent(event);
        }""",
        [how, place, given],
    )


@browser_test
def test_a_table_and_its_images_are_dropped(address: str, visit: Callable[..., PageVisit]) -> None:
    page = visit().open(address)
    page.get_by_role("tab", name="A table of posts").click()
    hand_over(
        page, "drop", "main", {"posts.csv": b"text,image\na good day,a.png\nrain,b.png\n", "a.png": png(drawing())}
    )
    wait_for_text(page, "#matched", "1 of 2 images chosen. Missing: b.png.")
    hand_over(page, "drop", "main", {"b.png": png(drawing())})
    wait_for_text(page, "#matched", "2 of 2 images chosen.")
    page.get_by_role("button", name="Predict 2 posts").click()
    wait_for_text(page, "#table-status", "2 posts predicted.")


@browser_test
@pytest.mark.parametrize("how", ["paste", "drop"])
def test_an_image_is_pasted_or_dropped(address: str, visit: Callable[..., PageVisit], how: str) -> None:
    page = visit().open(address)
    place = "#field-text" if how == "paste" else "main"
    hand_over(page, how, place, {"notes.txt": b"words"})
    wait_for_text(page, "#problem", "notes.txt is no image that this model could take.")
    hand_over(page, how, place, {"from outside.png": png(drawing())})
    assert page.locator("#problem").is_hidden()
    page.get_by_role("img", name="Preview of image").wait_for()
    assert "from outside.png" in page.locator("#field-image-about").inner_text()
    page.locator("#explain").uncheck()
    page.get_by_role("button", name="Predict").click()
    wait_for_text(page, "#answer", "The whole prediction came from the image.")
    page.get_by_role("button", name="Remove image").click()
    page.get_by_role("button", name="Predict").click()
    wait_for_text(page, "#problem", "Nothing to predict yet: fill in text or choose an image.")


def choose_by_key(page: Any) -> None:
    """Choose an image with the space bar; a busy browser may pass over a key that comes too soon after focus."""
    playwright = pytest.importorskip("playwright.sync_api")
    for patience in (4_000, 15_000):
        try:
            with page.expect_file_chooser(timeout=patience) as chooser:
                page.keyboard.press("Space")
            chooser.value.set_files(image_file())
            return
        except playwright.TimeoutError:
            if patience == 15_000:
                raise


@browser_test
def test_all_of_it_works_by_keyboard(address: str, visit: Callable[..., PageVisit]) -> None:
    page = visit().open(address)
    where = "document.activeElement.id || document.activeElement.textContent.trim()"

    def tab_to(name: str, key: str = "Tab") -> None:
        for _ in range(20):
            page.keyboard.press(key)
            if page.evaluate(where) == name:
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"nobody sees that {name} is in focus"
                return
        raise AssertionError(f"{name} is not reached")

    tab_to("tab-post")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(where) == "tab-table"
    assert page.locator("#panel-table").is_visible()
    page.keyboard.press("ArrowLeft")
    tab_to("field-text")
    page.keyboard.type("a happy day")
    tab_to("field-image")
    choose_by_key(page)
    tab_to("explain")
    page.keyboard.press("Space")
    tab_to("Predict")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Prediction").wait_for()
    wait_for_text(page, "#status", "Prediction: class")
    tab_to("field-text", "Shift+Tab")
    page.keyboard.type(" and a sad dog")
    page.keyboard.press("Control+Enter")
    text = page.locator("#field-text").input_value()
    assert "and a sad dog" in text
    found = ask(address, {"text": text, "image": base64.b64encode(png(drawing())).decode()})["predictions"][0]
    sure, share = (percent(value) for value in (found["probabilities"][found["label"]], found["shares"]["text"]))
    wait_for_text(page, "#status", f"Prediction: {found['label']}, {sure} confidence. Share: text {share}")


@browser_test
def test_an_example_is_tried_in_one_click(address: str, visit: Callable[..., PageVisit]) -> None:
    page = visit(390).open(address)
    example = page.locator("#examples button").nth(1)
    said = example.inner_text()
    example.click()
    page.get_by_role("heading", name="The image").wait_for()
    assert page.locator("#field-text").input_value() == said
    assert page.locator(".cx-words").inner_text() == said
    page.get_by_role("button", name="Clear").first.click()
    assert page.locator("#field-text").input_value() == ""
    assert page.get_by_role("heading", name="What you will see here").is_visible()


@browser_test
def test_what_goes_wrong_is_said_and_nothing_is_lost(address: str, visit: Callable[..., PageVisit]) -> None:
    seen = visit(390)
    page = seen.open(address)
    predict = page.get_by_role("button", name="Predict")
    page.locator("#field-text").fill("a good day")
    page.locator("#field-image").set_input_files(image_file("broken.png", b"no image"))
    wait_for_text(page, "#field-image-about", "this browser cannot show it")
    predict.click()
    wait_for_text(page, "#problem", "mage")
    assert barriers(page) == []
    busy = {"error": {"code": "busy", "message": "busy", "request_id": "r-77"}}
    page.route("**/v1/predict", lambda route: route.fulfill(status=429, headers={"Retry-After": "3"}, json=busy))
    predict.click()
    wait_for_text(page, "#problem", "The server is busy. Try again in 3 seconds.Request r-77")
    page.unroute("**/v1/predict")
    page.route("**/v1/predict", lambda route: route.abort())
    predict.click()
    wait_for_text(page, "#problem", "The server cannot be reached.")
    page.unroute("**/v1/predict")
    page.route("**/v1/predict", lambda route: route.fulfill(status=502, body="<html>bad gateway"))
    predict.click()
    wait_for_text(page, "#problem", "The server answered 502 without saying why.")
    page.unroute("**/v1/predict")
    page.get_by_role("button", name="Remove image").click()
    predict.click()
    page.get_by_role("heading", name="The words").wait_for()
    assert page.locator("#problem").is_hidden()
    assert page.locator("#field-text").input_value() == "a good day"
    check_fits(page)


@browser_test
def test_images_beyond_the_limits_are_not_sent(address: str, visit: Callable[..., PageVisit]) -> None:
    seen = visit()
    seen.answers(
        {**models(model(labels=["a", "b"])), "limits": {"body_bytes": 200_000, "image_pixels": 1000, "batch": 2}}
    )
    page = seen.open(address)
    for name, data, words in (
        ("wide.png", png(drawing()), "wide.png has 0.1 million pixels; the server takes up to 0.0. Make it smaller."),
        ("long.png", b"x" * 200_000, "long.png has 0.2 MB; the server takes up to 0.1 MB. Make it smaller."),
    ):
        page.locator("#field-image").set_input_files(image_file(name, data))
        wait_for_text(page, "#field-image-about", words)
        page.get_by_role("button", name="Predict").click()
        wait_for_text(page, "#problem", words)
        assert page.locator("#field-image").get_attribute("aria-invalid") == "true"


@browser_test
def test_a_server_with_a_key_asks_for_it(locked_address: str, visit: Callable[..., PageVisit]) -> None:
    page = visit().open(locked_address)
    box = page.get_by_label("API key")
    assert box.is_visible()
    assert barriers(page) == []
    box.fill("not the right one at all")
    page.get_by_role("button", name="Use this key").click()
    wait_for_text(page, "#problem", "The server does not accept this key.")
    box.fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    page.locator("#field-text").fill("a sad day")
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("heading", name="The words").wait_for()


@browser_test
@pytest.mark.parametrize("width", [1280, 390])
def test_a_table_is_predicted_and_downloaded(
    address: str, visit: Callable[..., PageVisit], width: int, tmp_path: Path
) -> None:
    seen = visit(width)
    page = seen.open(address)
    asked: list[int] = []

    def counted(route: Any) -> None:
        asked.append(len(route.request.post_data_json["posts"]))
        if len(asked) == 2:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": {"message": "busy"}})
        else:
            route.continue_()

    limits = {"body_bytes": 10**7, "image_pixels": 10**7, "batch": 2}
    page.route("**/v1/model", lambda route: route.fulfill(json={**route.fetch().json(), "limits": limits}))
    page.route("**/v1/predict", counted)
    seen.open(address)
    page.get_by_role("tab", name="A table of posts").click()
    assert page.get_by_role("button", name="Predict").locator("visible=true").is_disabled()
    texts = ["a good day", 'she said ""no"",\nand left', "sad rain"]
    rows = "".join(f'p{i};"{text}";C:\\photos\\{i}.PNG;x\n' for i, text in enumerate(texts))
    rows += "p3;;gone/3.png;x\np4;the cat;bad.png;x\np5;a film;;x\np6;;a/two.png;x\np7;;b/two.png;x\n"
    page.get_by_label("Table, with column names").fill("id;Caption;image;label\n" + rows)
    wait_for_text(page, "#matched", "0 of 7 images chosen. Several are called two.png")
    page.get_by_label("text", exact=True).select_option(label="Caption")
    good = [image_file(f"{i}.png") for i in range(3)]
    page.get_by_label("Image files").set_input_files([*good, image_file("bad.png", b"nothing"), image_file("two.png")])
    wait_for_text(page, "#matched", "Missing: 3.png.")
    assert barriers(page) == []
    page.get_by_role("button", name="Predict 8 posts").click()
    wait_for_text(page, "#table-status", "4 posts predicted, 4 without a prediction.")
    assert barriers(page) == []
    check_fits(page)
    assert asked == [2, 2, 2, 1]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    path = tmp_path / "predictions.csv"
    download.value.save_as(path)
    with path.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["id", "label", "p_class0", "p_class1", "p_class2", "text_share", "image_share", "error"]
    assert [row["id"] for row in table] == [f"p{i}" for i in range(8)]
    assert [bool(row["label"]) for row in table] == [True, True, True, False, False, True, False, False]
    assert table[3]["error"] == "no file named 3.png was chosen"
    assert table[4]["error"]
    assert table[6]["error"] == "the table has several images named two.png"
    expected = ask(address, {"text": 'she said "no",\nand left', "image": base64.b64encode(png(drawing())).decode()})
    found = expected["predictions"][0]
    assert table[1]["label"] == found["label"]
    assert float(table[1]["p_class1"]) == pytest.approx(found["probabilities"]["class1"], abs=1e-5)
    assert (float(table[5]["text_share"]), float(table[5]["image_share"])) == (1, 0)
    shown = page.locator("#rows tr").nth(1)
    assert found["label"] in shown.inner_text()
    assert percent(found["shares"]["text"]) in shown.inner_text()


@browser_test
def test_a_table_can_be_stopped_and_a_refused_batch_is_narrowed_down(
    address: str, visit: Callable[..., PageVisit]
) -> None:
    seen = visit()
    found = prediction(label="a", probabilities={"a": 0.9, "b": 0.1}, shares={"text": 1.0})
    refusal = {"error": {"code": "text_too_long", "message": "the text is too long", "request_id": "r"}}

    def answer(route: Any) -> None:
        posts = route.request.post_data_json["posts"]
        if any(post["fields"]["text"] == "long" for post in posts):
            route.fulfill(status=413, json=refusal)
        elif any(post["fields"]["text"] == "busy" for post in posts):
            route.fulfill(status=503, headers={"Retry-After": "60"}, json=refusal)
        else:
            route.fulfill(json=predicted(*[{**found, "id": post["id"]} for post in posts]))

    seen.page.route("**/v1/predict", answer)
    seen.answers(
        {
            **models(model(labels=["a", "b"], fields=[TEXT], explains=False)),
            "limits": {**models(model())["limits"], "batch": 3},
        }
    )
    page = seen.open(address)
    assert page.locator("#explain").is_hidden()
    assert page.locator("#intro").inner_text().count("Highlighted words") == 0
    page.get_by_role("tab", name="A table of posts").click()
    page.get_by_label("Table, with column names").fill(
        "text\tother\n" + "".join(f"{t}\tx\n" for t in ["one", "long", "two", "busy"])
    )
    page.get_by_role("button", name="Predict 4 posts").click()
    wait_for_text(page, "#table-status", "The server is busy; trying again in 60 seconds.")
    page.get_by_role("button", name="Stop").click()
    wait_for_text(page, "#table-status", "Stopped. 2 posts predicted, 1 without a prediction.")
    rows = page.locator("#rows tr").all_inner_texts()
    assert "The text is too long" in rows[1]
    assert "90%" in rows[2]


def _many() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    names = [
        f"label {i}" if i % 3 else f"quite-a-long-name-of-a-label-that-does-not-wrap, number {i}" for i in range(20)
    ]
    fields = [
        {**TEXT, "name": "title"},
        {**TEXT, "name": "caption"},
        {**IMAGE, "name": "photo"},
        {**IMAGE, "name": "second"},
        {
            "name": "table",
            "kind": "table",
            "columns": ["followers", "country"],
            "categories": {"country": ["de", "fr"]},
        },
    ]
    found = prediction(
        label=names[:2],
        probabilities={name: 0.9 * 0.8**i for i, name in enumerate(names)},
        shares=dict(zip([each["name"] for each in fields], [0.3, 0.2, 0.25, 0.05, 0.2], strict=True)),
    )
    about = model("multi-label", names, fields=fields, thresholds=dict.fromkeys(names, 0.6))
    return (
        models(about, model("regression", name="other", fields=[TEXT, IMAGE, fields[-1]])),
        found,
        explained(found, "long words " * 100, names[0], fields),
    )


@browser_test
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_many_labels_several_images_and_a_table(
    address: str, visit: Callable[..., PageVisit], width: int, scheme: str
) -> None:
    about, found, why = _many()
    seen = visit(width, scheme)
    sent: list[Any] = []
    seen.answers(about, None, why)
    seen.page.route(
        "**/v1/predict", lambda route: (sent.append(route.request.post_data_json), route.fulfill(json=predicted(found)))
    )
    page = seen.open(address)
    assert page.locator("#examples").is_hidden()
    form = page.locator("#post")
    form.get_by_label("Title").fill("long words " * 100)
    form.get_by_label("Caption").fill("long words " * 100)
    form.get_by_label("Photo", exact=True).set_input_files(image_file())
    form.get_by_label("Second", exact=True).set_input_files(image_file())
    form.get_by_label("followers").fill("12")
    form.get_by_label("country").select_option("fr")
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("heading", name="The image of second").wait_for()
    assert sent[0]["model"] == "mine"
    assert sent[0]["posts"][0]["fields"]["table"] == {"followers": "12", "country": "fr"}
    assert page.locator("#answer .bars").first.locator("tbody tr").count() == 12
    assert page.get_by_text("8 less probable").is_visible()
    assert page.get_by_text("from 60%").first.is_visible()
    assert page.get_by_role("heading", name="The words of caption").is_visible()
    assert barriers(page) == []
    check_fits(page)


@browser_test
def test_a_number_and_another_model(address: str, visit: Callable[..., PageVisit]) -> None:
    about, _, _ = _many()
    found = prediction(label=3.21987, value=3.21987, shares={"text": 0.5, "image": 0.5})
    seen = visit()
    seen.answers(about, predicted(found), explained(found, "one two three", "value"))
    page = seen.open(address)
    page.locator("#field-table-country").select_option("fr")
    page.get_by_label("Model").select_option("other")
    wait_for_text(page, "#about", "predicts a number")
    assert page.locator("#field-table-country").input_value() == "fr", "what both models read is kept"
    page.locator("#field-text").fill("one two three")
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("heading", name="The words").wait_for()
    assert page.locator(".cx-big").inner_text() == "3.22"
    assert "The text supports a higher value, the image opposes it." in page.locator("#answer").inner_text()


@browser_test
def test_markup_in_labels_texts_and_errors_is_text(address: str, visit: Callable[..., PageVisit]) -> None:
    evil = "<img src=x onerror=alert(1)>"
    found = prediction(label=evil, probabilities={evil: 0.9, "b": 0.1}, shares={"text": 1.0, "image": 0.0}, error=evil)
    seen = visit()
    seen.answers(models(model(labels=[evil, "b"])), predicted(found), explained(found, f"{evil} day", evil))
    page = seen.open(address)
    page.locator("#field-text").fill(f"{evil} day")
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("heading", name="The words").wait_for()
    assert page.locator("img[src=x]").count() == 0
    assert page.locator(".cx-words").inner_text() == f"{evil} day"


@browser_test
def test_tables_are_read_and_written_as_spreadsheets_do(address: str, visit: Callable[..., PageVisit]) -> None:
    page = visit().open(address)
    cases = {
        "\ufeffa,b\r\n1,\"x, \"\"y\"\"\nz\"\r\n\r\n2,\r\n": [["a", "b"], ["1", 'x, "y"\nz'], ["2", ""]],
        "a\tb, c\n1\t2;3\n": [["a", "b, c"], ["1", "2;3"]],
        "a;b\r1;2": [["a", "b"], ["1", "2"]],
        "alone\none\n\ntwo": [["alone"], ["one"], ["two"]],
        "": [],
    }  # fmt: skip
    found = page.evaluate(
        """async texts => {
            const {readTable, writeTable} = await import("./static/csv.js");
            return [texts.map(readTable), writeTable([["a", null, 1.5], ['x"y', "b,c", "d\\ne"]])];
        }""",
        list(cases),
    )
    assert found[0] == list(cases.values())
    assert list(csv.reader(io.StringIO(found[1], newline=""))) == [["a", "", "1.5"], ['x"y', "b,c", "d\ne"]]
