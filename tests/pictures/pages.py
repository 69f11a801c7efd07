"""Reads the data in the HTML pages of gallery, comparison and tiles."""

import json
import re


def data_of(page):
    """The data of a page, given as bytes or as a file."""
    content = page if isinstance(page, bytes) else page.read_bytes()
    return json.loads(re.search(rb'<script id="data" type="application/json">(.*?)</script>', content, re.DOTALL)[1])
