"""The page to try detectors on: what it answers, whom it admits, and which uploads it refuses."""

from __future__ import annotations

import io
import json
import socket
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from data_parts import write_images
from detector_parts import CATEGORIES, IMAGE, MODEL, untrained
from detr_mini.config.compose import compose
from detr_mini.errors import ConfigError, UserError
from detr_mini.formats.discover import Source
from detr_mini.inference.detector import Detector
from detr_mini.pages.labels import labels
from detr_mini.verbs.demo import demo
from hostile_uploads import HOSTILE, picture
from pages_parts import References

pytest.importorskip("starlette")
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from detr_mini.pages import demo as page
from detr_mini.pages.demo import LARGEST_BYTES, Demo, make_app
from detr_mini.pages.guard import Door, is_local
from detr_mini.pages.serve import bound, greeting

OWN = "http://127.0.0.1:8321"
STATIC = Path(page.__file__).parent / "static"


@pytest.fixture(autouse=True)
def every_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of an untrained detector are low."""
    monkeypatch.setattr(page, "LEAST_SCORE", 0.0)


@pytest.fixture
def client(detector: Detector) -> Iterator[TestClient]:
    """The page with one untrained detector twice, as this machine's browser sees it; one event loop, as when served."""
    app = make_app(Demo([("a", detector), ("<b>", detector)]), Door("127.0.0.1", 8321))
    with TestClient(app, base_url=OWN) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/api/detect", "/api/explain"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_refused_with_a_sentence_and_leaves_nothing(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    answer = client.post(path, content=HOSTILE[name])
    assert answer.status_code == 400
    sentence = answer.json()["error"]
    assert 10 < len(sentence) < 300 and "Traceback" not in sentence and "<" not in sentence
    assert answer.headers["content-type"] == "application/json"
    assert not list(tmp_path.iterdir())


def test_an_upload_that_states_or_sends_too_many_bytes_is_not_read(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 8 * LARGEST_BYTES:
            sent += 1_000_000
            yield bytes(1_000_000)

    started = time.perf_counter()
    assert client.post("/api/detect", content=b"x", headers={"Content-Length": "100000000"}).status_code == 413
    assert time.perf_counter() - started < 5
    assert client.post("/api/detect", content=endless()).status_code == 413


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_picture_is_answered_as_the_detector_answers(client: TestClient, detector: Detector, kind: str) -> None:
    content = picture(kind=kind)
    answer = client.post("/api/detect?detector=1", content=content).json()
    found = detector.detect(Image.open(io.BytesIO(content)), threshold=page.LEAST_SCORE)
    assert (answer["width"], answer["height"]) == (60, 40)
    assert [one["score"] for one in answer["detections"]] == [one["score"] for one in found.records()]
    assert [one["bbox"] for one in answer["detections"]] == [one["bbox"] for one in found.records()]
    assert len(found) > 0


def test_a_crowded_picture_is_answered_with_more_than_a_hundred_objects_and_no_note() -> None:
    crowded = Detector(untrained({**MODEL, "queries": 45}), CATEGORIES, IMAGE)
    answer = Demo([("a", crowded)]).detect(picture(), 0, None)
    assert len(answer["detections"]) > 100 and answer["notes"] == []


def test_a_box_is_explained_layer_by_layer_and_ends_where_it_was_found(client: TestClient) -> None:
    found = client.post("/api/detect", content=picture()).json()["detections"][0]
    trace = client.post(f"/api/explain?query={found['query']}", content=picture()).json()
    assert len(trace["maps"]) == len(trace["boxes"]) >= 1
    assert all(len(layer) == trace["rows"] * trace["columns"] and max(layer) == 255 for layer in trace["maps"])
    x, y, width, height = found["bbox"]
    assert trace["boxes"][-1] == pytest.approx([x, y, x + width, y + height], abs=0.6)


@pytest.mark.parametrize(
    "question", ["detector=7", "detector=-1", "detector=x", "caption=a+cup", "caption=" + "x" * 900]
)
def test_a_wrong_question_is_a_sentence(client: TestClient, question: str) -> None:
    answer = client.post(f"/api/detect?{question}", content=picture())
    assert answer.status_code == 400 and answer.json()["error"]
    assert client.post("/api/explain?query=999", content=picture()).status_code == 400


def test_many_requests_at_once_are_all_answered(client: TestClient) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.post("/api/detect", content=picture()), range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example:8321"}, {"Host": "127.0.0.1:80"}, {"Host": "127.0.0.1.evil.example:8321"}, {"Host": ""},
     {"Host": "[::1"}, {"Host": "localhost:x"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
     {"Origin": "https://127.0.0.1:8321"}, {"Origin": "http://127.0.0.1:9999"}, {"Sec-Fetch-Site": "cross-site"}],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/about", "/api/detect", "/page.js"])
def test_pages_elsewhere_and_rebound_names_are_refused(client: TestClient, headers: dict[str, str], path: str) -> None:
    answer = client.request("POST" if path == "/api/detect" else "GET", path, headers=headers)
    assert answer.status_code == 403
    assert "address that the terminal shows" in answer.json()["error"]


def test_this_machines_own_page_is_admitted(client: TestClient) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    for host in ("127.0.0.1:8321", "localhost:8321", "[::1]:8321"):
        answer = client.get("/api/about", headers={"Host": host, "Origin": f"http://{host}", **own})
        assert answer.status_code == 200
        assert [one["name"] for one in answer.json()["detectors"]] == ["a", "<b>"]


@pytest.mark.parametrize(
    ("host", "name", "admitted"),
    [
        ("127.0.0.2", "127.0.0.2", True), ("127.0.0.2", "127.0.0.3", False), ("127.0.0.1", "127.0.0.2", False),
        ("LOCALHOST", "localhost", True), ("My-Box.Local", "my-box.local", True), ("FE80::1", "[fe80::1]", True),
        ("my-box.local", "MY-BOX.LOCAL", True), ("my-box.local", "evil.example", False),
    ],
)  # fmt: skip
def test_the_address_that_the_terminal_shows_is_admitted(host: str, name: str, admitted: bool) -> None:
    door = Door(host, 8321)
    assert (door.admits(Headers({"host": f"{name}:8321"}), "/") is None) == admitted
    assert is_local("LocalHost") and is_local("127.0.0.2") and not is_local("my-box.local")


def test_beyond_this_machine_requests_need_the_token(detector: Detector) -> None:
    door = Door("0.0.0.0", 8321, "secret")
    client = TestClient(make_app(Demo([("a", detector)]), door), base_url="http://192.0.2.7:8321")
    assert client.get("/").status_code == 200  # the page itself holds nothing
    for token in (None, "", "wrong", "sécret".encode()):
        assert client.get("/api/about", headers={} if token is None else {"X-Token": token}).status_code == 403
    assert client.get("/api/about", headers={"X-Token": "secret"}).status_code == 200
    assert client.get("/api/about", headers={"X-Token": "secret", "Host": "evil.example:8321"}).status_code == 403
    assert "#token=secret" in greeting(door)[0] and "every machine" in greeting(door)[1]
    assert "Only this machine" in greeting(Door("127.0.0.1", 8321))[0]


def test_every_answer_has_a_strict_policy_and_the_page_loads_only_its_own_files(client: TestClient) -> None:
    for path in ("/", "/page.js", "/page.css", "/api/about", "/none"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    found = References(client.get("/").text)
    assert set(found.loaded) == {"/page.js", "/page.css", "data:,"} and not found.handlers
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "https:"):
        assert risky not in script
    assert "style=" not in client.get("/").text


EVIL = '<img src=x onerror="alert(1)">'
REQUEST = {"images": [
    {"name": "../../etc/passwd.jpg", "width": 100, "height": 50,
     "detections": [{"name": EVIL, "score": 0.5, "bbox": [10.125, 5, 30.5, 20]}]},
    {"name": "/etc/passwd.jpg", "width": 10, "height": 10, "detections": []},
    {"name": "..\\a.png", "width": 10, "height": 10,
     "detections": [{"name": "cup", "score": 1, "bbox": [0, 0, 10, 10]}]},
]}  # fmt: skip


def test_what_is_downloaded_reads_back_equal(client: TestClient, tmp_path: Path) -> None:
    def fetched(kind: str) -> bytes:
        answer = client.post(f"/api/labels?format={kind}", json=REQUEST)
        assert answer.status_code == 200 and answer.headers["content-disposition"].startswith("attachment")
        return answer.content

    coco = json.loads(fetched("coco"))
    names = {one["id"]: one["name"] for one in coco["categories"]}
    assert [(names[a["category_id"]], a["bbox"]) for a in coco["annotations"]] == [
        (EVIL, [10.125, 5, 30.5, 20]), ("cup", [0, 0, 10, 10])]  # fmt: skip
    for kind in ("yolo", "voc"):
        with zipfile.ZipFile(io.BytesIO(fetched(kind))) as archive:
            assert len(archive.namelist()) == len(set(archive.namelist())) == 3 + (kind == "yolo")
            assert not [n for n in archive.namelist() if ".." in n or n.startswith("/") or "\\" in n]
            texts = {name: archive.read(name).decode() for name in archive.namelist()}
        if kind == "yolo":
            row = next(text for name, text in texts.items() if name.endswith(".txt") and text.startswith("0 "))
            cx, cy, w, h = (float(v) for v in row.split()[1:])
            assert [(cx - w / 2) * 100, (cy - h / 2) * 50, w * 100, h * 50] == pytest.approx([10.125, 5, 30.5, 20])
        else:
            assert any("&lt;img" in text for text in texts.values()) and not any("<img" in t for t in texts.values())


PHOTOS = ["photos/a/1.jpg", "photos/b/1.jpg", "photos/b/2.x.png"]


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_downloads_fit_the_folder_of_the_pictures(client: TestClient, tmp_path: Path, kind: str) -> None:
    found = {"name": "K\u00e4se \U0001f9c0", "score": 0.5, "bbox": [1, 2, 10, 12]}
    images = [{"name": n, "width": 60, "height": 40, "detections": [found]} for n in PHOTOS]
    content = client.post(f"/api/labels?format={kind}", json={"images": images}).content
    pictures = {"coco": "images", "yolo": "images", "voc": "JPEGImages"}[kind]
    write_images(tmp_path / pictures, [name.removeprefix("photos/") for name in PHOTOS])
    if kind == "coco":
        (tmp_path / "annotations.json").write_bytes(content)
    else:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(tmp_path)
    (tree,) = Source.found(tmp_path).trees().values()
    files = sorted(image["file_name"].removeprefix("images/") for image in tree.content["images"])
    assert files == ["a/1.jpg", "b/1.jpg", "b/2.x.png"]
    assert [box["bbox"] for box in tree.content["annotations"]] == [pytest.approx([1, 2, 10, 12])] * 3
    assert [category["name"] for category in tree.content["categories"]] == [found["name"]]


def test_half_of_a_character_in_a_request_does_not_break_the_download(client: TestClient) -> None:
    half = {"name": "\ud83e", "score": 0.5, "bbox": [1, 2, 10, 12]}
    body = json.dumps({"images": [{"name": "\ud83e.jpg", "width": 60, "height": 40, "detections": [half]}]})
    for kind in ("coco", "yolo", "voc"):
        assert client.post(f"/api/labels?format={kind}", content=body).status_code == 200


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"images": 3}', b'{"images": [1]}', b"[" * 100_000,
     b'{"images": [{"name": "a", "width": 0, "height": 1, "detections": []}]}',
     b'{"images": [{"name": "a", "width": 9, "height": 9, "detections": ['
     b'{"name": "a", "score": 1, "bbox": [0, 0, -1, 1]}]}]}',
     b'{"images": [{"name": "a", "width": 9, "height": 9, "detections": ['
     b'{"name": "a", "score": NaN, "bbox": [0, 0, 1, 1]}]}]}'],
)  # fmt: skip
def test_a_broken_request_for_labels_is_a_sentence(client: TestClient, content: bytes) -> None:
    answer = client.post("/api/labels?format=coco", content=content)
    assert answer.status_code == 400 and answer.json()["error"]


def test_an_unknown_format_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="choose one of coco, yolo, voc"):
        labels("pickle", REQUEST)


def test_a_port_in_use_and_a_wrong_address_are_sentences() -> None:
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            bound("127.0.0.1", port)
        with pytest.raises(UserError, match=f"port {port} is in use"):
            demo(compose("demo", [f"port={port}"]))
    with pytest.raises(UserError, match="is no address of this machine"):
        bound("no.such.host.invalid", 1)
    with pytest.raises(ConfigError, match="two that are shown"):
        demo(compose("demo", ["checkpoint=[a,b,c]"]))
    with pytest.raises(ConfigError, match="from 0 to 65535"):
        demo(compose("demo", ["port=70000"]))
    assert socket.gethostname()
