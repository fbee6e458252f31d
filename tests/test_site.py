"""The site: built strictly; no link is dead, no picture missing, no page wider than a telephone."""

import functools
import http.server
import json
import pathlib
import queue
import re
import shutil
import subprocess
import threading
import urllib.parse
from html.parser import HTMLParser

import pytest

pytest.importorskip("zensical", reason="needs zensical")

ROOT = pathlib.Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    copy = tmp_path_factory.mktemp("project")
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, copy)
    command = ["zensical", "build", "--strict"]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return copy / "site"


class Page(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.sources, self.names = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.names |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in ("img", "script", "link") and (attributes.get("src") or attributes.get("href")):
            self.sources.append(attributes.get("src") or attributes["href"])


def pages(site):
    return [path for path in site.rglob("*.html") if path.name != "404.html"]


def test_every_link_and_every_picture_is_there(site):
    parse = functools.cache(Page)
    dead = []
    for path in pages(site):
        page = parse(path)
        for target in page.links + page.sources:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            found = (path.parent / urllib.parse.unquote(parts.path)).resolve()
            found = path if not parts.path else found
            found = found / "index.html" if found.is_dir() else found
            names = parse(found).names if found.suffix == ".html" and found.exists() else set()
            fragment = urllib.parse.unquote(parts.fragment)
            if not found.exists() or (fragment and fragment not in names):
                dead.append((str(path.relative_to(site)), target))
    assert len(pages(site)) > 50
    assert not dead


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text()))
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert listed == there


WIDTHS = """<!doctype html><body><script>
const measure = (address, width) => new Promise((done) => {
  const frame = document.createElement("iframe")
  frame.style.cssText = `width: ${width}px; height: 800px`
  frame.onload = () => setTimeout(() => {
    const inside = frame.contentDocument
    const images = [...inside.querySelectorAll("img")].filter(image => image.complete)
    const missing = images.filter(image => !image.naturalWidth).map(image => image.src)
    done({ address, width, needed: inside.documentElement.scrollWidth, missing })
    frame.remove()
  }, 30)
  frame.src = address
  document.body.append(frame)
})
const work = async () => {
  const found = []
  for (const address of ADDRESSES) for (const width of [390, 1280])
    found.push(await measure(address, width))
  fetch("/found", { method: "POST", body: JSON.stringify(found) })
}
work()
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serve the site, and receive what the page of widths has found."""

    def do_POST(self):
        self.server.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_no_page_is_wider_than_its_window_and_every_picture_loads(site):
    addresses = [f"/{path.parent.relative_to(site)}/".replace("/./", "/") for path in pages(site)]
    (site / "widths.html").write_text(WIDTHS.replace("ADDRESSES", json.dumps(addresses)))
    handler = functools.partial(Handler, directory=site)
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        server.found = queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # what the site takes from elsewhere is left out, so that the answer is always the same
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        options.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost")
        address = f"http://localhost:{server.server_port}/widths.html"
        browser = subprocess.Popen([CHROMIUM, *options, address], stderr=subprocess.DEVNULL)
        try:
            found = server.found.get(timeout=300)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    assert len(found) == 2 * len(addresses)
    assert not [each for each in found if each["needed"] > each["width"]]
    assert not [each for each in found if each["missing"]]
