"""Pages that need no other file."""

from PIL import Image

from utils.page import Section, image_uri, write_page


def test_a_page_has_its_sections_and_no_script(tmp_path):
    rows = [["where", "what"], ["<script>alert(1)</script>", "a & b"]]
    write_page(tmp_path / "p.html", "<title>", [
        Section("Empty <one>"), Section("Table", rows), Section("Text", text="1 < 2\n  3"),
        Section("Details", details=[Section("2 <x>", rows)]),
        Section("Images", images=[('a "quoted" name', image_uri(Image.new("RGB", (4, 3))))])])
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<script" not in text and text.count("&lt;script&gt;") == 2
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert "<summary>2 &lt;x&gt;</summary>" in text and "1 &lt; 2\n  3" in text
    assert 'alt="a &#34;quoted&#34; name"' in text and text.count("<img ") == 1
