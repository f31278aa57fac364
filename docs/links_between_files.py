"""Links of the project's Markdown files as the site can follow them.

Read beside the code, a link may point to a folder. On the site it points to that
folder's README, and is plain text where there is none. Sphinx does the rest.
"""

import re
from pathlib import Path

LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]+)\]\((?P<path>[^)#:\s]+)\)")


def setup(app):
    app.connect("source-read", _point_to_readmes)
    return {"parallel_read_safe": True}


def _point_to_readmes(app, docname, source):
    file = Path(app.env.doc2path(docname))
    if file.suffix != ".md":
        return

    def linked(link):
        folder = file.parent / link["path"]
        if not folder.is_dir():
            return link[0]
        if not (folder / "README.md").exists():
            return link["text"]
        return f"[{link['text']}]({link['path'].rstrip('/')}/README.md)"

    source[0] = LINK.sub(linked, source[0])
