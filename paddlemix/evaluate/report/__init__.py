"""The report of a run as one self-contained HTML file: no network, and all of it there without its script.

page.py has the whole and what is said of each task, charts.py the figures by category, gallery.py the items,
selection.py which items are shown, thumbnails.py their images, markup.py the escaping of all texts.
"""

from .page import write_report

__all__ = ["write_report"]
